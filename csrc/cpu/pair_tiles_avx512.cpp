#include <limits>

#include "cpu/lanes_avx512.h"
#include "cpu/pair_tiles.h"

namespace c2f {
namespace {

#include "cpu/pair_tiles_body.h"

}  // namespace

const PairTiles kPairTilesAvx512 = kPairTiles;

}  // namespace c2f
