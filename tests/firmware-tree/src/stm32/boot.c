/* The vector table, and the way from reset to main(). */
#include "firmware.h"
#include "autoconf.h"
#include "declare.h"

#ifdef CONFIG_USBSERIAL
DECLARE_STRING("RESERVE_PINS_USB", "PA11,PA12");
#elif defined(CONFIG_STM32_SERIAL_USART2)
DECLARE_STRING("RESERVE_PINS_serial", "PA3,PA2");
#else
DECLARE_STRING("RESERVE_PINS_serial", "PA10,PA9");
#endif
DECLARE_NUMBER("CLOCK_REF_FREQ", CONFIG_CLOCK_REF_FREQ);

extern uint32_t data_start[], data_end[], data_flash[], bss_start[], bss_end[], stack_end[];

static void loaded(void)
{
    const uint32_t *from = data_flash;
    for (uint32_t *to = data_start; to < data_end;)
        *to++ = *from++;
    for (uint32_t *to = bss_start; to < bss_end;)
        *to++ = 0;
    main();
    __builtin_unreachable();
}

__attribute__((naked, noreturn)) void reset(void)
{
    __asm__ volatile("cpsid i\n\tb %c0" : : "i"(loaded));
}

static void halted(void)
{
    for (;;)
        ;
}

__attribute__((used, section(".vectors"))) static const void *const vectors[16] = {
    stack_end, reset, halted, halted, halted, halted, halted, 0, 0, 0, 0, halted, halted, 0, halted, halted,
};
