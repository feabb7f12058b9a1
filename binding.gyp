{
  "variables": {
    # Where better-sqlite3 keeps the headers of its SQLite; empty without it: then what needs SQLite is left out.
    "sqlite_dir%": "<!(node -p \"try { require('path').dirname(require.resolve('better-sqlite3/package.json')) + '/deps/sqlite3' } catch { '' }\")",
  },
  "target_defaults": {
    "include_dirs": ["native"],
    # node's own default comes first in cflags_cc and would win over ours.
    "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-std=gnu++1y"],
    "cflags_cc": [
      "-std=c++20",
      "-fno-exceptions",
      "-fvisibility=hidden",
      "-Wall",
      "-Wextra",
      "-Wshadow",
      "-Wconversion",
    ],
    "configurations": {
      # -g1 is what a backtrace needs, and a third less to compile than -g.
      "Release": { "cflags_cc": ["-O3", "-g1"] },
      "Debug": { "cflags_cc": ["-Og", "-g"] },
    },
    "conditions": [
      ["sqlite_dir!=''", {
        # Headers of others are not ours to keep free of warnings.
        "cflags_cc": ["-isystem", "<(sqlite_dir)"],
      }],
    ],
  },
  "targets": [
    {
      # All that knows nothing of JavaScript. The native unit tests link it as it is compiled here (native/CMakeLists.txt).
      "target_name": "walship-core",
      "type": "static_library",
      "standalone_static_library": 1,
      "product_prefix": "lib",
      # Configuring lists the sources anew, so a new file needs no entry here.
      "sources": ["<!@(find native -name '*.cc' -not -path 'native/addon/*' -not -path 'native/test/*' -not -path 'native/*/sqlite*' | LC_ALL=C sort)"],
      "conditions": [
        ["sqlite_dir!=''", {
          "sources": ["<!@(find native -name '*.cc' -not -path 'native/addon/*' -not -path 'native/test/*' -path 'native/*/sqlite*' | LC_ALL=C sort)"],
        }],
      ],
    },
    {
      "target_name": "walship",
      "dependencies": ["walship-core"],
      "sources": ["<!@(find native/addon -name '*.cc' -not -path '*/sqlite*' | LC_ALL=C sort)"],
      "defines": [
        "WALSHIP_VERSION=\"<!(node -p \"require('./package.json').version\")\"",
        "NAPI_VERSION=9",
        "NAPI_DISABLE_CPP_EXCEPTIONS",
        "NODE_ADDON_API_DISABLE_DEPRECATED",
        # In a Worker that is being terminated nothing can be thrown any more, and nobody is there to catch it.
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
      ],
      "cflags_cc": ["-isystem", "<!(node -p \"require('path').resolve(require('node-addon-api').include_dir)\")"],
      "conditions": [
        ["sqlite_dir!=''", {
          "sources": ["<!@(find native/addon -name '*.cc' -path '*/sqlite*' | LC_ALL=C sort)"],
          "defines": ["WALSHIP_WITH_SQLITE"],
        }],
      ],
      # HMAC, SHA-256 and TLS come out of the node binary; libibverbs is opened at run time.
      "libraries": ["-ldl", "-lpthread"],
    },
  ],
}
