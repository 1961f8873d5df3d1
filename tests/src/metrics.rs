//! Reads a `/metrics` page in the Prometheus text format, as far as tests need it.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// By name, then by the text between the braces.
    samples: BTreeMap<(String, String), f64>,
}

impl Metrics {
    #[must_use]
    pub fn parse(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.filter_map(|line| {
            let (series, value) = line.trim().rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}')?;
            Some(((name.to_owned(), labels.to_owned()), value.parse().ok()?))
        });
        Self {
            samples: samples.collect(),
        }
    }

    /// The sum over every series of `name` that carries all of `labels`; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{value}\""))
            .collect();
        let carries = |text: &str| {
            wanted
                .iter()
                .all(|want| text.split(',').any(|label| label == want))
        };
        let series = self
            .samples
            .iter()
            .filter(|((n, text), _)| n == name && carries(text));
        series.map(|(_, value)| value).sum()
    }

    /// Every series whose name holds `part` and whose value is not 0, for messages.
    #[must_use]
    pub fn about(&self, part: &str) -> String {
        let series = self
            .samples
            .iter()
            .filter(|((name, _), value)| name.contains(part) && **value != 0.0);
        series
            .map(|((name, labels), value)| format!("{name}{{{labels}}} {value}\n"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_over_the_labels_that_were_not_asked_for() {
        let page = "# TYPE a counter\na{x=\"1\",y=\"p\"} 2\na{x=\"1\",y=\"q\"} 3\na{x=\"2\"} 7\nb 1\n";
        let metrics = Metrics::parse(page);
        assert_eq!(metrics.sum("a", &[("x", "1")]), 5.0);
        assert_eq!(metrics.sum("a", &[]), 12.0);
        assert_eq!(metrics.sum("b", &[]), 1.0);
        assert_eq!(metrics.sum("c", &[]), 0.0);
    }
}
