//! Things that people call by a name.

use crate::error::{Error, Result};

/// The one of `all` that has this name.
///
/// # Errors
/// [`Error::Refused`] with the names that there are.
pub(crate) fn named<T: Copy>(what: &str, all: &[T], name_of: fn(T) -> &'static str, name: &str) -> Result<T> {
    all.iter().copied().find(|&item| name_of(item) == name).ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|&item| name_of(item)).collect();
        Error::Refused(format!("there is no {what} {name:?}; there are: {}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use crate::checkpoint::Override;
    use crate::verify::Verify;
    use crate::{Container, Dtype, Format};

    #[test]
    fn names_lead_back() {
        assert!(Container::ALL.iter().all(|of| of.name().parse().is_ok_and(|found: Container| found == *of)));
        assert!(Verify::ALL.iter().all(|of| of.name().parse().is_ok_and(|found: Verify| found == *of)));
        assert!(Dtype::ALL.iter().all(|of| of.name().to_lowercase().parse().is_ok_and(|found: Dtype| found == *of)));
        let refused = |error: crate::Error| error.to_string();
        assert!(
            refused("zip".parse::<Container>().expect_err("none"))
                .starts_with("there is no container \"zip\"; there are: native, ")
        );
        assert_eq!(
            refused("all".parse::<Verify>().expect_err("none")),
            "there is no way to verify \"all\"; there are: none, sample, full"
        );
        assert_eq!(
            refused("f64".parse::<Dtype>().expect_err("none")),
            "there is no type \"f64\"; there are: f32, f16, bf16"
        );
    }

    #[test]
    fn overrides_are_patterns_and_formats() {
        let parsed =
            |text: &str| text.parse::<Override>().map(|of| (of.pattern, of.format)).map_err(|error| error.to_string());
        assert_eq!(parsed("*.a=nf4"), Ok(("*.a".to_owned(), Some(Format::Nf4))));
        assert_eq!(parsed("a=b=keep"), Ok(("a=b".to_owned(), None)));
        for text in ["", "nf4", "=nf4"] {
            assert!(parsed(text).expect_err("no override").contains("PATTERN=FORMAT or PATTERN=keep"), "{text}");
        }
        assert!(parsed("a=nf5").expect_err("no format").ends_with("; or keep"));
    }
}
