/* The vector table and the way to main() are avr-libc's. */
#include <avr/interrupt.h>

#include "firmware.h"
#include "autoconf.h"
#include "declare.h"

DECLARE_STRING("RESERVE_PINS_serial", "PE0,PE1");

ISR(BADISR_vect)
{
}
