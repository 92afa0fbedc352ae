/* Undoes what _kernels_body.h defines, so that it can be included for the next set of instructions. */

#undef WORD
#undef WORD_LANES
#undef LOAD
#undef STORE
#undef ZERO
#undef EACH_PAIR
#undef EACH
#undef ADD32
#undef ADD16
#undef TIMES16
#undef LOW
#undef HIGH
#undef PAIRS
#undef FIRST
#undef SECOND
#undef WIDER
#undef MOST_WORDS
#undef WITH_WORDS
