//! Which texts are names in Kubernetes, by its own rules.

/// Whether it is a DNS label, as RFC 1123 has it and Kubernetes asks of namespaces.
pub(crate) fn is_label(name: &str) -> bool {
    name.len() <= 63 && between_alphanumerics(name, |c| c == b'-') && name.bytes().all(|c| !c.is_ascii_uppercase())
}

/// Whether it is a DNS subdomain, as RFC 1123 has it and Kubernetes asks of most names.
pub(crate) fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| label.len() <= 63 && is_label(label);
    name.len() <= 253 && name.split('.').all(label)
}

/// Whether a label, such as a node's kubernetes.io/hostname, can have this value.
pub(crate) fn is_label_value(value: &str) -> bool {
    value.len() <= 63 && between_alphanumerics(value, |c| b"-_.".contains(&c))
}

/// Whether an extended resource can have this name: a domain of its own, and what is offered.
pub(crate) fn is_extended_resource(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, name)| {
        let kubernetes = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
        is_subdomain(domain) && !kubernetes && is_label_value(name)
    })
}

/// Whether letters and digits stand at both ends, and letters, digits and `also` between.
fn between_alphanumerics(text: &str, also: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|&c| c.is_ascii_alphanumeric() || also(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_subdomains_and_values() {
        let long = "a".repeat(64);
        for (text, label, subdomain, value) in [
            ("pi4", true, true, true),
            ("a-b", true, true, true),
            ("a.b", false, true, true),
            ("Pi_4", false, false, true),
            ("", false, false, false),
            ("-a", false, false, false),
            ("a-", false, false, false),
            ("a..b", false, false, true),
            ("a/b", false, false, false),
            (long.as_str(), false, false, false),
        ] {
            let is = (is_label(text), is_subdomain(text), is_label_value(text));
            assert_eq!(is, (label, subdomain, value), "{text}");
        }
    }

    #[test]
    fn extended_resources_have_a_domain_of_their_own() {
        for name in ["smarter-devices/ttyACM0", "squat.ai/serial", "kflash.dev/printer-voron"] {
            assert!(is_extended_resource(name), "{name}");
        }
        for name in ["cpu", "kubernetes.io/x", "a.kubernetes.io/x", "a/", "/x", "a/b/c", "a b/c"] {
            assert!(!is_extended_resource(name), "{name}");
        }
    }
}
