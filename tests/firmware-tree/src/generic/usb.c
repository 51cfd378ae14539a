#include "firmware.h"
#include "autoconf.h"

volatile uint8_t link_register;

void link_send(uint8_t byte)
{
    link_register = byte ^ (uint8_t)CONFIG_USB_VENDOR_ID;
}
