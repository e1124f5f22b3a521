#include <limits>

#include "cpu/lanes_portable.h"
#include "cpu/pair_tiles.h"

namespace c2f {
namespace {

#include "cpu/pair_tiles_body.h"

}  // namespace

const PairTiles kPairTilesPortable = kPairTiles;

}  // namespace c2f
