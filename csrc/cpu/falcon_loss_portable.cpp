#include <initializer_list>
#include <limits>

#include "cpu/falcon_loss_rows.h"
#include "cpu/lanes_portable.h"

namespace c2f {
namespace {

#include "cpu/falcon_loss_body.h"

}  // namespace

const FalconRows kFalconRowsPortable = kRows;

}  // namespace c2f
