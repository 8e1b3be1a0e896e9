#pragma once

#include <functional>

/// Calls `work`, all of which callgrind counts: it is told this name.
extern "C" void measured(const std::function<void()>& work);
