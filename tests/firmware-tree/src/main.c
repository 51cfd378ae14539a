/* Sends the dictionary over and over. */
#include "firmware.h"
#include "autoconf.h"
#include "declare.h"

DECLARE_STRING("MCU", CONFIG_MCU);
DECLARE_NUMBER("CLOCK_FREQ", CONFIG_CLOCK_FREQ);
DECLARE_NUMBER("STATS_SUMSQ_BASE", 256);

int main(void)
{
    for (uint32_t at = 0;; at = at + 1 == dictionary_size ? 0 : at + 1)
        link_send(dictionary_byte(at));
}
