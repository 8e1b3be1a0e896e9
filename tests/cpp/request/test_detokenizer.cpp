#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "request/detokenizer.h"

namespace llamaherd {
namespace {

const std::string kBad = "\xEF\xBF\xBD";

struct Result {
  std::string text;
  bool stopped;
  bool operator==(const Result&) const = default;
};

/// Puts the pieces one by one; the parts shown must be valid UTF-8 each.
Result stream(const std::vector<std::string>& pieces, const std::vector<std::string>& stops) {
  Detokenizer s{StopStrings(stops)};
  std::string text;
  for (const std::string& piece : pieces) {
    if (s.stopped()) break;
    std::string part;
    s.put(piece, true, part);
    std::string again;
    append_utf8(part, true, again);
    EXPECT_EQ(part, again) << "not valid UTF-8";
    text += part;
  }
  s.finish(text);
  return {text, s.stopped()};
}

std::string as_utf8(const std::string& bytes) {
  std::string out;
  append_utf8(bytes, true, out);
  return out;
}

TEST(AppendUtf8, ReplacesAsPythonDoes) {
  const std::vector<std::pair<std::string, std::string>> rows = {
      {"", ""},
      {"abc", "abc"},
      {"\xC3\xA9", "\xC3\xA9"},
      {"\xE2\x82\xAC", "\xE2\x82\xAC"},
      {"\xF0\x9F\x90\x8F", "\xF0\x9F\x90\x8F"},
      {"\x80", kBad},          // continuation without a lead
      {"\xC3", kBad},          // cut short by the end
      {"\xF0\x9F\x90", kBad},  // one for the whole beginning
      {"\xC3"
       "a",
       kBad + "a"},  // the next byte is looked at anew
      {"\xE2\x82"
       "a",
       kBad + "a"},                                              //
      {"\xE2\x82\xC3\xA9", kBad + "\xC3\xA9"},                   //
      {"\xC0\xAF", kBad + kBad},                                 // overlong
      {"\xE0\x80\x80", kBad + kBad + kBad},                      // overlong
      {"\xED\xA0\x80", kBad + kBad + kBad},                      // surrogate
      {"\xF0\x80\x80\x80", kBad + kBad + kBad + kBad},           // overlong
      {"\xF4\x90\x80\x80", kBad + kBad + kBad + kBad},           // beyond U+10FFFF
      {"\xF5\xFF", kBad + kBad},                                 // never valid
      {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},                  // U+10FFFF
      {"\xED\x9F\xBF\xEE\x80\x80", "\xED\x9F\xBF\xEE\x80\x80"},  // beside the surrogates
  };
  for (const auto& [bytes, text] : rows) {
    EXPECT_EQ(as_utf8(bytes), text) << ::testing::PrintToString(bytes);
  }
}

TEST(AppendUtf8, LeavesACharacterThatIsStillOpen) {
  std::string out;
  EXPECT_EQ(append_utf8("ab\xE2\x82", false, out), 2u);
  EXPECT_EQ(out, "ab");
  EXPECT_EQ(append_utf8("\xE2"
                        "a",
                        false, out),
            2u);
  EXPECT_EQ(out, "ab" + kBad + "a");
}

TEST(Detokenizer, JoinsACharacterCutIntoTokens) {
  Detokenizer s(StopStrings{});
  std::string out;
  s.put("\xF0", true, out);
  s.put("\x9F\x90", true, out);
  EXPECT_EQ(out, "");
  s.put("\x8F!", true, out);
  EXPECT_EQ(out, "\xF0\x9F\x90\x8F!");
}

TEST(Detokenizer, FinishGivesOutWhatIsHeld) {
  EXPECT_EQ(stream({"a", "\xE2\x82"}, {}).text, "a" + kBad);
  EXPECT_EQ(stream({"abEN"}, {"END"}).text, "abEN");
}

TEST(Detokenizer, FindsStopStringsAcrossBorders) {
  EXPECT_EQ(stream({"one E", "N", "D two"}, {"END"}), (Result{"one ", true}));
  EXPECT_EQ(stream({"EEN", "DD"}, {"END"}), (Result{"E", true}));
  EXPECT_EQ(stream({"aab", "aaba", "ac"}, {"aabaac"}), (Result{"aab", true}));
  EXPECT_EQ(stream({"\xC3", "\xA9", "x"}, {"\xC3\xA9"}), (Result{"", true}));
}

TEST(Detokenizer, NeverShowsAPartOfAStopString) {
  Detokenizer s(StopStrings{"STOP", "OPEN"});
  std::string out;
  for (const char* piece : {"a", "S", "T", "O", "P"}) {
    s.put(piece, true, out);
    EXPECT_EQ(out, "a");
  }
  EXPECT_TRUE(s.stopped());
}

TEST(Detokenizer, GivesOutWhatTurnsOutNotToBeAStopString) {
  Detokenizer s(StopStrings{"STOP"});
  std::string out;
  s.put("STO", true, out);
  EXPECT_EQ(out, "");
  s.put("RE", true, out);
  EXPECT_EQ(out, "STORE");
}

TEST(Detokenizer, TheStopStringCompleteFirstWins) {
  EXPECT_EQ(stream({"xabcd"}, {"abcd", "bc"}), (Result{"xa", true}));
  EXPECT_EQ(stream({"xabc"}, {"bc", "abc", "c"}), (Result{"x", true})) << "the longest at a byte";
}

TEST(Detokenizer, BytesBeforeAStopStringAreMadeValid) {
  EXPECT_EQ(stream({"a\xE2\x82", "END"}, {"END"}), (Result{"a" + kBad, true}));
}

TEST(Detokenizer, LooksForNoStopStringUntilTold) {
  Detokenizer s(StopStrings{"END"});
  std::string out;
  s.put("END E", false, out);
  EXPECT_EQ(out, "END E");
  s.put("ND", true, out);
  EXPECT_FALSE(s.stopped()) << "its beginning was shown";
  s.put("END", true, out);
  EXPECT_TRUE(s.stopped());
  EXPECT_EQ(out, "END END");
}

/// Where the first stop string starts that is complete, the longest of those complete there.
std::size_t naive_stop(const std::string& bytes, const std::vector<std::string>& stops) {
  for (std::size_t end = 1; end <= bytes.size(); ++end) {
    std::size_t longest = 0;
    for (const std::string& stop : stops) {
      if (bytes.substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) return end - longest;
  }
  return std::string::npos;
}

TEST(Detokenizer, DoesNotDependOnHowTheBytesAreCut) {
  const std::string alphabet = "ab\xC3\xA9\xE2\x82\xAC\xFF";
  const std::vector<std::vector<std::string>> stop_sets = {{},
                                                           {"ab"},
                                                           {"aab", "ba"},
                                                           {"\xC3\xA9"},
                                                           {"abab", "bab", "\xE2\x82\xAC"},
                                                           {"aaab", "aab\xC3\xA9"},
                                                           {"aaaa", "aabaa", "abaab", "baabaa"}};
  std::mt19937 rng(4);
  int n_stopped = 0;
  for (int round = 0; round < 30000; ++round) {
    std::string bytes;
    for (std::size_t n = rng() % 24; n > 0; --n) bytes += alphabet[rng() % alphabet.size()];
    std::vector<std::string> pieces;
    for (std::size_t i = 0; i < bytes.size();) {
      const std::size_t n = rng() % 4;
      pieces.push_back(bytes.substr(i, n));
      i += n;
    }
    const auto& stops = stop_sets[rng() % stop_sets.size()];
    const Result whole = stream({bytes}, stops);
    ASSERT_EQ(stream(pieces, stops), whole) << ::testing::PrintToString(bytes);
    const std::size_t stop = naive_stop(bytes, stops);
    ASSERT_EQ(whole.stopped, stop != std::string::npos) << ::testing::PrintToString(bytes);
    ASSERT_EQ(whole.text, as_utf8(bytes.substr(0, stop)));
    n_stopped += whole.stopped;
  }
  EXPECT_GT(n_stopped, 2000);
}

}  // namespace
}  // namespace llamaherd
