//! The udev rules that give a person access to boards.

/// The rules, as they lie in `udev/60-kflash.rules`.
pub const RULES: &str = include_str!("../../../udev/60-kflash.rules");

/// Where they are installed.
pub const RULES_PATH: &str = "/etc/udev/rules.d/60-kflash.rules";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::{KNOWN_IDS, Mode};

    /// What is no board: it is known to probe-rs, not to this crate.
    fn is_for_probes(rule: &str) -> bool {
        ["ATTR{product}==\"*CMSIS-DAP*\"", "ATTR{idVendor}==\"1366\", MODE"].iter().any(|start| rule.starts_with(start))
            || (rule.starts_with("ATTR{idVendor}==\"0483\"") && rule.contains("ATTR{idProduct}==\"37"))
    }

    #[test]
    fn probes_have_rules_for_libusb() {
        let probes: Vec<_> = RULES.lines().filter(|line| is_for_probes(line)).collect();
        assert_eq!(probes.len(), 5);
        assert!(probes.iter().all(|rule| rule.ends_with("MODE=\"0660\", GROUP=\"plugdev\", TAG+=\"uaccess\"")));
    }

    #[test]
    fn each_known_id_has_one_rule_of_the_right_kind_and_no_other_id_has() {
        let rules: Vec<_> = RULES.lines().filter(|line| line.starts_with("ATTR") && !is_for_probes(line)).collect();
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
