#ifndef DECLARE_H
#define DECLARE_H

#define JOINED_(a, b) a##b
#define JOINED(a, b) JOINED_(a, b)
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

/* A line for the data dictionary; scripts/buildcommands.py reads it out of the object file. */
#define DECLARE(line) \
    static const char JOINED(declared_, __LINE__)[] __attribute__((used, section(".declared"))) = line

#define DECLARE_COMMAND(format) DECLARE("command " format)
#define DECLARE_RESPONSE(format) DECLARE("response " format)
#define DECLARE_NUMBER(name, value) DECLARE("number " name " " TEXT(value))
#define DECLARE_STRING(name, value) DECLARE("string " name " " value)

#endif
