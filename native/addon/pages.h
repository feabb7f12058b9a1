#pragma once

#include "addon/engine.h"

namespace walship::addon {

// The functions of `pages`: each takes the engine first. src/engine/native.ts declares them.
Napi::Object pages(Napi::Env env);

}  // namespace walship::addon
