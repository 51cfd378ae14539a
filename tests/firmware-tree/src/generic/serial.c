#include "firmware.h"
#include "autoconf.h"
#include "declare.h"

DECLARE_NUMBER("SERIAL_BAUD", CONFIG_SERIAL_BAUD);
DECLARE_NUMBER("RECEIVE_WINDOW", 192);

volatile uint8_t link_register;

void link_send(uint8_t byte)
{
    link_register = byte;
}
