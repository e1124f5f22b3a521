#include <limits>

#include "cpu/lanes_avx2.h"
#include "cpu/pair_tiles.h"

namespace c2f {
namespace {

#include "cpu/pair_tiles_body.h"

}  // namespace

const PairTiles kPairTilesAvx2 = kPairTiles;

}  // namespace c2f
