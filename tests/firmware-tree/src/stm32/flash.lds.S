#include "autoconf.h"

MEMORY
{
    rom (rx) : ORIGIN = CONFIG_FLASH_APPLICATION_ADDRESS, LENGTH = CONFIG_FLASH_SIZE
    ram (rwx) : ORIGIN = 0x20000000, LENGTH = CONFIG_RAM_SIZE
}

SECTIONS
{
    .text : {
        KEEP(*(.vectors))
        *(.text .text.*)
        *(.rodata .rodata.*)
    } > rom
    .data : ALIGN(4) {
        data_start = .;
        *(.data .data.*)
        . = ALIGN(4);
        data_end = .;
    } > ram AT > rom
    data_flash = LOADADDR(.data);
    .bss (NOLOAD) : ALIGN(4) {
        bss_start = .;
        *(.bss .bss.* COMMON)
        . = ALIGN(4);
        bss_end = .;
    } > ram
    stack_end = ORIGIN(ram) + LENGTH(ram);
    /DISCARD/ : { *(.declared) *(.ARM.exidx*) }
}
