//! Choice of the requests that a copy is made of. Pure: the draw is an argument.

/// Tells whether a request is one of the `percent` (0 to 100) of which a copy is made; `draw` is from 0 up to 1.
#[must_use]
pub fn is_mirrored(percent: f64, draw: f64) -> bool {
    draw * 100.0 < percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_requests_is_copied() {
        for (percent, draw, expected) in [
            (0.0, 0.0, false),
            (5.0, 0.0, true),
            (5.0, 0.049_9, true),
            (5.0, 0.05, false),
            (0.1, 0.000_9, true),
            (0.1, 0.001, false),
            (100.0, 0.999_999_999, true),
        ] {
            assert_eq!(is_mirrored(percent, draw), expected, "{percent} at {draw}");
        }
    }
}
