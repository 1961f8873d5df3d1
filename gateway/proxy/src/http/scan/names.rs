//! Names of fields as the most liberal programs read them. CGI and what follows it (WSGI, PHP, Rack) make variables of them, of which
//! every byte that is no letter or digit is the same.

/// Byte of a name in the form in which names are compared.
pub(super) fn read_byte(byte: u8) -> u8 {
    match byte.is_ascii_alphanumeric() {
        true => byte.to_ascii_lowercase(),
        false => b'-',
    }
}

/// Tells whether there are programs that read both names as one.
pub(crate) fn reads_as(name: &[u8], other: &[u8]) -> bool {
    name.len() == other.len() && begins_as(name, other)
}

/// Tells whether there are programs to which a name begins with these bytes.
pub(crate) fn begins_as(name: &[u8], begin: &[u8]) -> bool {
    let first = name.get(..begin.len());
    first.is_some_and(|first| {
        let mut both = first.iter().zip(begin);
        both.all(|(one, other)| read_byte(*one) == read_byte(*other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_no_letter_or_digit_is_read_as_the_same() {
        for name in ["X-Real-Ip", "x_real_ip", "X.Real~ip", "x|real!ip"] {
            assert!(reads_as(name.as_bytes(), b"x-real-ip"), "{name}");
            assert!(begins_as(name.as_bytes(), b"x-real"), "{name}");
        }
        for name in ["xreal-ip", "x-real-i", "x-real-ipp", "x0real-ip", ""] {
            assert!(!reads_as(name.as_bytes(), b"x-real-ip"), "{name}");
        }
    }
}
