#pragma once

#include <functional>

/// Calls `work`. callgrind counts this function by name.
extern "C" void measured(const std::function<void()>& work);
