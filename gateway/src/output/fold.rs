//! Columns that fit into so much room: cells are continued on further lines, and what is longer than some lines is cut.

/// Most lines of one cell.
const MAX_LINES: usize = 32;

/// Widths of columns that together have no more than `room`: the widest give way first, and none is made narrower than its `least`.
pub(super) fn widths(natural: &[usize], least: &[usize], room: usize) -> Vec<usize> {
    let under = |cap: usize| {
        let columns = natural.iter().zip(least);
        columns.map(move |(natural, least)| (*natural).min(cap.max(*least)))
    };
    let widest = natural.iter().copied().max().unwrap_or_default();
    let cap = (0..=widest).rev().find(|cap| under(*cap).sum::<usize>() <= room);
    let mut widths: Vec<_> = under(cap.unwrap_or_default()).collect();
    let mut spare = room.saturating_sub(widths.iter().sum());
    for (width, natural) in widths.iter_mut().zip(natural) {
        if spare > 0 && *width < *natural {
            (*width, spare) = (*width + 1, spare - 1);
        }
    }
    widths
}

/// Widens columns towards `wanted` as far as there is room.
pub(super) fn widen(widths: &mut [usize], wanted: &[usize], room: usize) {
    let mut spare = room.saturating_sub(widths.iter().sum());
    for (width, wanted) in widths.iter_mut().zip(wanted) {
        let more = wanted.saturating_sub(*width).min(spare);
        (*width, spare) = (*width + more, spare - more);
    }
}

/// The longest part of a title that stays together.
pub(super) fn longest_word(title: &str) -> usize {
    title
        .split(' ')
        .map(|word| word.chars().count())
        .max()
        .unwrap_or_default()
}

/// Breaks a text into lines of at most `width` characters: between words where it can, else after a sign, else anywhere.
pub(super) fn fold(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > width && width > 0 {
        if lines.len() + 1 == MAX_LINES {
            rest.truncate(width.saturating_sub(1));
            rest.push('…');
            break;
        }
        let after = rest.split_off(end_of_line(&rest, width));
        lines.push(rest.iter().collect::<String>().trim_end().to_owned());
        rest = after.into_iter().skip_while(|letter| *letter == ' ').collect();
    }
    lines.push(rest.into_iter().collect());
    lines.join("\n")
}

/// Number of characters of the first line.
fn end_of_line(text: &[char], width: usize) -> usize {
    let last_of = |signs: &str| {
        let mut line = text.iter().take(width).enumerate();
        let found = line.rfind(|(_, letter)| signs.contains(**letter));
        found.map(|(place, _)| place + 1)
    };
    // The space that ends a line takes no room in it.
    if text.get(width) == Some(&' ') {
        return width;
    }
    last_of(" ,;|").or_else(|| last_of("=:/.@-_")).unwrap_or(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_columns_give_way_and_none_below_its_least() {
        assert_eq!(widths(&[5, 5], &[1, 1], 10), [5, 5]);
        assert_eq!(widths(&[5, 40, 3], &[1, 1, 1], 20), [5, 12, 3]);
        assert_eq!(widths(&[30, 40, 3], &[1, 1, 1], 20), [9, 8, 3]);
        assert_eq!(widths(&[30, 40, 30], &[20, 1, 1], 31), [21, 5, 5]);
        // There is not room for the least: it is kept to.
        assert_eq!(widths(&[30, 40], &[20, 20], 10), [20, 20]);
        let mut with_titles = [5, 5, 5];
        widen(&mut with_titles, &[9, 5, 9], 20);
        assert_eq!(with_titles, [9, 5, 6]);
    }

    #[test]
    fn a_text_is_broken_between_words_then_after_signs_then_anywhere() {
        assert_eq!(fold("short", 10), "short");
        assert_eq!(fold("connection refused", 10), "connection\nrefused");
        assert_eq!(fold("zone=a,az=b,rack=12", 8), "zone=a,\naz=b,\nrack=12");
        assert_eq!(fold("10.128.77.3:65535", 8), "10.128.\n77.3:\n65535");
        assert_eq!(fold("abcdefgh", 3), "abc\ndef\ngh");
        assert_eq!(fold("élanélan", 4), "élan\nélan");
        assert_eq!(fold("", 4), "");
    }

    #[test]
    fn a_text_of_too_many_lines_is_cut() {
        let folded = fold(&"word ".repeat(50), 5);
        assert_eq!(folded.lines().count(), MAX_LINES);
        assert!(folded.ends_with("word…"), "{folded}");
        assert!(folded.lines().all(|line| line.chars().count() <= 5));
    }
}
