#include "firmware.h"
#include "autoconf.h"
#include "declare.h"

#ifdef __AVR__
#include <avr/pgmspace.h>
#endif

DECLARE_COMMAND("identify offset=%u count=%c");
DECLARE_RESPONSE("identify_response offset=%u data=%.*s");
DECLARE_COMMAND("get_uptime");
DECLARE_RESPONSE("uptime high=%u clock=%u");
DECLARE_COMMAND("reset");

uint8_t dictionary_byte(uint32_t at)
{
#if defined(__AVR_HAVE_RAMPZ__)
    return pgm_read_byte_far(pgm_get_far_address(dictionary) + at);
#elif defined(__AVR__)
    return pgm_read_byte(dictionary + at);
#else
    return dictionary[at];
#endif
}
