#include <initializer_list>
#include <limits>

#include "cpu/falcon_loss_rows.h"
#include "cpu/lanes_avx512.h"

namespace c2f {
namespace {

#include "cpu/falcon_loss_body.h"

}  // namespace

const FalconRows kFalconRowsAvx512 = kRows;

}  // namespace c2f
