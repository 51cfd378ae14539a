#include "firmware.h"
#include "autoconf.h"
#include "declare.h"

DECLARE_COMMAND("config_sensor oid=%c rate=%u");
DECLARE_RESPONSE("sensor_state oid=%c value=%hu");
