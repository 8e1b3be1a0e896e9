#pragma once

// Included before llama.cpp's common/jinja/runtime.cpp by the build. Its trace macro stands at
// every step: here the step is counted instead.
#include "jinja/runtime.h"
#include "template_budget.h"

#undef JJ_DEBUG
#define JJ_DEBUG(...) ::llamaherd::count_template_step()
