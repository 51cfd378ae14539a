#ifndef FIRMWARE_H
#define FIRMWARE_H

#include <stdint.h>

/* generic/serial.c or generic/usb.c */
extern volatile uint8_t link_register;
void link_send(uint8_t byte);

/* command.c */
uint8_t dictionary_byte(uint32_t at);

/* dictionary.c, made by scripts/buildcommands.py */
extern const uint8_t dictionary[];
extern const uint32_t dictionary_size;

int main(void);

#endif
