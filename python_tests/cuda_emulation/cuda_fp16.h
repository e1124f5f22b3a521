#include "emulated_16bit.h"
