#include "llama/chat/template_probe.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <new>
#include <thread>

#include "chat.h"
#include "common/error.h"
#include "llama.h"

namespace llamaherd {
namespace {

using Clock = std::chrono::steady_clock;

constexpr rlim_t kCpuSeconds = 2;
constexpr auto kWait = std::chrono::seconds(60);  // the machine may be under load
constexpr rlim_t kMemory = rlim_t{512} << 20;     // in addition to the process's memory
constexpr auto kPause = std::chrono::microseconds(500);

constexpr char kDone = 'd', kNoMemory = 'm';

/// Address space used, in bytes; 0: unknown.
rlim_t address_space() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (!file) return 0;
  unsigned long pages = 0;
  const bool read = std::fscanf(file, "%lu", &pages) == 1;
  std::fclose(file);
  return read ? pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) : 0;
}

void limit(int resource, rlim_t value) {
  const rlimit both{value, value};
  setrlimit(resource, &both);
}

int verdict_end = -1;  // write end of the pipe in the child

/// Ends the child immediately: llama.cpp would treat a failed allocation as a template error and
/// continue.
[[noreturn]] void report(char verdict) { _exit(write(verdict_end, &verdict, 1) == 1 ? 0 : 1); }

/// Body of the child, which has one thread. Locks held by other threads stay held, so it must not
/// log.
void render(const llama_model* model, const std::string& source) {
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  try {
    const common_chat_templates_ptr templates = common_chat_templates_init(model, source);
    common_chat_templates_inputs inputs;
    common_chat_msg message;
    message.role = "user";
    message.content = "Hello";
    inputs.messages.push_back(message);
    common_chat_templates_apply(templates.get(), inputs);
  } catch (const std::exception&) {
    return;  // the parent gets the same exception and reports it
  }
}

[[noreturn]] void run_child(const llama_model* model, const std::string& source, int out) {
  for (const int number : {SIGSEGV, SIGABRT, SIGFPE, SIGBUS, SIGILL, SIGXCPU}) {
    signal(number, SIG_DFL);
  }
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_CPU, kCpuSeconds);
  if (const rlim_t used = address_space()) limit(RLIMIT_AS, used + kMemory);
  verdict_end = out;
  std::set_new_handler([] { report(kNoMemory); });
  render(model, source);
  report(kDone);
}

/// Waits for the child, and kills it after the time limit. Returns its status; 0: it was reaped
/// elsewhere.
int reap(pid_t child) {
  const Clock::time_point deadline = Clock::now() + kWait;
  for (;;) {
    int status = 0;
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended == child) return status;
    if (ended < 0 && errno != EINTR) return 0;
    if (Clock::now() > deadline) kill(child, SIGKILL);
    std::this_thread::sleep_for(kPause);
  }
}

std::string cause_of(int status) {
  if (!WIFSIGNALED(status)) return "it crashed the process that rendered it";
  const int number = WTERMSIG(status);
  if (number == SIGXCPU || number == SIGKILL) return "it runs for more than 2 seconds";
  if (number == SIGSEGV || number == SIGBUS) return "it recurses without end";
  return "it crashed the process that rendered it with signal " + std::to_string(number);
}

}  // namespace

void probe_template(const llama_model* model, const std::string& source) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) throw ModelLoadError("cannot create a pipe");
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  for (const int end : ends) fcntl(end, F_SETFD, FD_CLOEXEC);
  const pid_t child = fork();
  if (child == 0) run_child(model, source, ends[1]);
  const int status = child > 0 ? reap(child) : 0;
  char verdict = 0;
  const bool has_verdict = read(ends[0], &verdict, 1) == 1;
  for (const int end : ends) close(end);
  if (child < 0) throw ModelLoadError("cannot create a process to test the chat template");
  if (!has_verdict) throw ModelLoadError("the chat template cannot be used: " + cause_of(status));
  if (verdict == kNoMemory) {
    throw ModelLoadError("the chat template cannot be used: it takes more than 512 MiB of memory");
  }
}

}  // namespace llamaherd
