//! A line of time for each zone: how many requests it served in each moment.

use std::time::{Duration, Instant};

use causeway_federation::name::ZoneName;

use crate::demo::{client::DemoOutcome, story};

/// Columns that the moments may take.
const MAX_COLUMNS: usize = 84;
/// Shortest moment.
const MOMENT: Duration = Duration::from_millis(100);
/// From few to many.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Requests by the moment at which they began: one row for each zone that served, one for those that were lost, one for
/// how long they waited, and one that marks what was done when.
pub(super) fn draw(outcomes: &[DemoOutcome], zones: &[ZoneName], marks: &[(Instant, &str)]) -> String {
    let Some(first) = outcomes.iter().map(|outcome| outcome.started).min() else {
        return String::new();
    };
    let last = outcomes
        .iter()
        .map(|outcome| outcome.started)
        .max()
        .unwrap_or(first);
    let columns_needed = |moment: Duration| (last - first).as_nanos() / moment.as_nanos() + 1;
    let mut moment = MOMENT;
    while columns_needed(moment) > MAX_COLUMNS as u128 {
        moment += MOMENT;
    }
    let columns = columns_needed(moment) as usize;
    let column = |at: Instant| {
        ((at.saturating_duration_since(first).as_nanos() / moment.as_nanos()) as usize).min(columns - 1)
    };
    let width = zones
        .iter()
        .map(|zone| zone.as_str().len())
        .max()
        .unwrap_or(0)
        .max("waited".len());
    let mut text = format!("{:width$}  one column = {} ms\n", "", moment.as_millis());
    let mut row = |label: &str, colour: Option<usize>, heights: &[u64]| {
        if heights.iter().all(|height| *height == 0) {
            return;
        }
        let line = levels(heights);
        let line = colour.map_or(line.clone(), |index| story::coloured(&line, index));
        text.push_str(&format!("{label:<width$}  {line}\n"));
    };
    for (index, zone) in zones.iter().enumerate() {
        let mut heights = vec![0; columns];
        for outcome in outcomes
            .iter()
            .filter(|outcome| outcome.served_by() == Some(zone))
        {
            heights[column(outcome.started)] += 1;
        }
        row(zone.as_str(), Some(index), &heights);
    }
    let (mut lost, mut waited) = (vec![0; columns], vec![0; columns]);
    for outcome in outcomes {
        let place = column(outcome.started);
        match &outcome.answer {
            Ok(_) => waited[place] = outcome.waited.as_micros().max(u128::from(waited[place])) as u64,
            Err(_) => lost[place] += 1,
        }
    }
    row("lost", None, &lost);
    row("waited", None, &waited);
    let marks: Vec<_> = marks.iter().map(|(at, mark)| (column(*at), *mark)).collect();
    text.push_str(&format!("{:width$}  {}\n", "", mark_row(&marks)));
    text
}

/// Heights relative to the highest; nothing where there is nothing.
fn levels(heights: &[u64]) -> String {
    let highest = heights.iter().copied().max().unwrap_or(0).max(1);
    let level = |height: u64| match height {
        0 => ' ',
        _ => LEVELS[((height * LEVELS.len() as u64).div_ceil(highest) as usize).clamp(1, LEVELS.len()) - 1],
    };
    let line: String = heights.iter().map(|height| level(*height)).collect();
    line.trim_end().to_owned()
}

/// `^ cut   ^ healed`, as far as there is room.
fn mark_row(marks: &[(usize, &str)]) -> String {
    let mut row = String::new();
    for (column, mark) in marks {
        let used = row.chars().count();
        row.push_str(&" ".repeat(column.saturating_sub(used)));
        row.push_str(&format!("^ {mark} "));
    }
    row.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_are_relative_to_the_highest_and_nothing_stays_blank() {
        assert_eq!(levels(&[1, 0, 8, 4, 0]), "▁ █▄");
    }

    #[test]
    fn marks_stand_below_their_moment() {
        assert_eq!(mark_row(&[(2, "cut"), (12, "healed")]), "  ^ cut     ^ healed");
    }
}
