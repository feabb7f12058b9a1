# Shared by scripts/softroce and its parts: where things are, and how failures are told apart.
# Sourced, never run. Expects `here` = the absolute path of scripts/softroce.d.

checkout=$(cd "$here/../.." && pwd -P)
cache=${WALSHIP_SOFTROCE_CACHE:-$checkout/.cache/softroce}

# Exit codes of the lab itself; every other code is the command's own. Documented in help.txt.
readonly kUsage=64 kSetupFailed=120 kQemuFailed=121 kPanic=122 kHung=123 kTimeout=124

say() { printf 'softroce: %s\n' "$*" >&2; }

fail() {
  local code=$1
  shift
  say "$@"
  exit "$code"
}
