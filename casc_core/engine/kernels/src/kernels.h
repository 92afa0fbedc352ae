/* All kernels for one set of instructions: included by dispatch.c with VECTOR (bits, or 0) and NAME defined.

   Their loops run over padded lengths, so that none has a remainder; what is padded is zero and stays silent. */

#include "simd.h"
#include "rows.h"
#include "neurons.h"
#include "recurrence.h"
#include "gated_sums.h"
#include "gated.h"
#include "tables.h"
#include "lists.h"
#include "convolution.h"
#include "dense.h"
#include "counting.h"
#include "maxima.h"
#include "rounding.h"
#include "driven.h"
#include "cells.h"
#define REAL float
#define TYPED(x) NAME(x##_FLOAT32)
#include "currents.h"
#undef REAL
#undef TYPED
#define REAL double
#define TYPED(x) NAME(x##_FLOAT64)
#include "currents.h"
#undef REAL
#undef TYPED
