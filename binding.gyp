{
  "targets": [
    {
      "target_name": "walship",
      # Where better-sqlite3 keeps the headers of its SQLite; empty without it: then what needs SQLite is left out.
      "variables": {
        "sqlite_dir%": "<!(node -p \"try { require('path').dirname(require.resolve('better-sqlite3/package.json')) + '/deps/sqlite3' } catch { '' }\")",
      },
      # Configuring lists the sources anew, so a new file needs no entry here.
      "sources": ["<!@(find native -name '*.cc' -not -path 'native/test/*' -not -path 'native/*/sqlite*' | LC_ALL=C sort)"],
      "include_dirs": ["native"],
      "defines": [
        "WALSHIP_VERSION=\"<!(node -p \"require('./package.json').version\")\"",
        "NAPI_VERSION=9",
        "NAPI_DISABLE_CPP_EXCEPTIONS",
        "NODE_ADDON_API_DISABLE_DEPRECATED",
        # In a Worker that is being terminated nothing can be thrown any more, and nobody is there to catch it.
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
      ],
      # node's own default comes first in cflags_cc and would win over ours.
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-std=gnu++1y"],
      "cflags_cc": [
        "-std=c++20",
        "-fno-exceptions",
        "-fvisibility=hidden",
        "-g",
        "-Wall",
        "-Wextra",
        "-Wshadow",
        "-Wconversion",
        # Headers of others are not ours to keep free of warnings.
        "-isystem",
        "<!(node -p \"require('path').resolve(require('node-addon-api').include_dir)\")",
      ],
      "configurations": {
        "Release": { "cflags_cc": ["-O3"] },
        "Debug": { "cflags_cc": ["-Og"] },
      },
      "conditions": [
        ["sqlite_dir!=''", {
          "sources": ["<!@(find native -name '*.cc' -not -path 'native/test/*' -path 'native/*/sqlite*' | LC_ALL=C sort)"],
          "defines": ["WALSHIP_WITH_SQLITE"],
          "cflags_cc": ["-isystem", "<(sqlite_dir)"],
        }],
      ],
      # HMAC, SHA-256 and TLS come out of the node binary; libibverbs is opened at run time.
      "libraries": ["-ldl", "-lpthread"],
    }
  ],
}
