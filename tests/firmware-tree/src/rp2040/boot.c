/* The vector table, and the way from reset to main(), which lies in RAM. */
#include "firmware.h"
#include "autoconf.h"
#include "declare.h"

#ifdef CONFIG_SERIAL
DECLARE_STRING("RESERVE_PINS_serial", "gpio0,gpio1");
#endif

extern uint32_t data_start[], data_end[], data_flash[], bss_start[], bss_end[], stack_end[];

__attribute__((used)) static void cleared(void)
{
    for (uint32_t *to = bss_start; to < bss_end;)
        *to++ = 0;
    main();
    __builtin_unreachable();
}

__attribute__((naked, noreturn, section(".reset"))) void reset(void)
{
    __asm__ volatile(
        ".syntax unified\n"
        "cpsid i\n"
        "ldr r0, =data_start\n"
        "ldr r1, =data_end\n"
        "ldr r2, =data_flash\n"
        "1: cmp r0, r1\n"
        "bhs 2f\n"
        "ldr r3, [r2]\n"
        "str r3, [r0]\n"
        "adds r0, #4\n"
        "adds r2, #4\n"
        "b 1b\n"
        "2: ldr r0, =cleared\n"
        "bx r0\n"
        ".ltorg\n");
}

static void halted(void)
{
    for (;;)
        ;
}

__attribute__((used, section(".vectors"))) static const void *const vectors[16] = {
    stack_end, reset, halted, halted, 0, 0, 0, 0, 0, 0, 0, halted, 0, 0, halted, halted,
};
