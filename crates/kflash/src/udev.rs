//! The udev rules that give a person access to boards.

/// The rules, as they lie in `udev/60-kflash.rules`.
pub const RULES: &str = include_str!("../../../udev/60-kflash.rules");

/// Where they are installed.
pub const RULES_PATH: &str = "/etc/udev/rules.d/60-kflash.rules";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::{KNOWN_IDS, Mode};

    #[test]
    fn each_known_id_has_one_rule_of_the_right_kind_and_no_other_id_has() {
        let rules: Vec<_> = RULES.lines().filter(|line| line.starts_with("ATTR")).collect();
        let served: Vec<_> = KNOWN_IDS.iter().filter(|known| known.mode != Mode::Unknown).collect();
        assert_eq!(rules.len(), served.len());
        for known in served {
            let by_node = matches!(known.mode, Mode::Dfu | Mode::Rp2Boot);
            let (attribute, group) = if by_node { ("ATTR", "plugdev") } else { ("ATTRS", "dialout") };
            let rule = format!(
                "{attribute}{{idVendor}}==\"{:04x}\", {attribute}{{idProduct}}==\"{:04x}\", MODE=\"0660\", \
                 GROUP=\"{group}\", TAG+=\"uaccess\"",
                known.id.vendor, known.id.product
            );
            assert_eq!(rules.iter().filter(|line| line.starts_with(&rule)).count(), 1, "{}: {rule}", known.name);
        }
    }
}
