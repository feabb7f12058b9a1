# Shared by the scripts in this folder; sourced from the root of the checkout.

die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Headers that came with this node make a download of them needless.
node_prefix=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
if [[ -f "$node_prefix/include/node/node_api.h" ]]; then
  export npm_config_nodedir=$node_prefix
fi

# Objects compiled before, in this checkout or another, are not compiled again.
if [[ -d /usr/lib/ccache ]]; then
  export PATH=/usr/lib/ccache:$PATH
fi

# llvm-symbolizer, which turns the addresses in reports of sanitizers into names, goes by that name only here.
if [[ -d /usr/lib/llvm-19/bin ]]; then
  export PATH=$PATH:/usr/lib/llvm-19/bin
fi
