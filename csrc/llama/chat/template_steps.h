#pragma once

// The build includes this file before llama.cpp's common/jinja/runtime.cpp. It redefines the trace
// macro, which is used at every step, to count steps.
#include "jinja/runtime.h"
#include "template_budget.h"

#undef JJ_DEBUG
#define JJ_DEBUG(...) ::llamaherd::count_template_step()
