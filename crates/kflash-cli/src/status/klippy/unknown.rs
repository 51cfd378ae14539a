//! What klippy read, of a kflash that does not speak with Moonraker.

use kflash::flash::Heard;
use kflash::host::Host;

use super::row::Runs;
use super::target::Target;

/// What klippy read, or why nothing is known of it.
pub type Klippy = Result<Runs, String>;

/// Nobody tells.
pub fn klippy_of(_: &dyn Host, _: &Target<'_>, _: &Heard) -> Option<Klippy> {
    None
}
