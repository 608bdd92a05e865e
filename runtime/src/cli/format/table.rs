//! Tables as Docker prints them.

/// The narrowest column and the space between two, in characters, as Docker's.
const NARROWEST: usize = 10;
const SPACE: usize = 3;

/// Lays rows of cells out in columns; the last column is as wide as it is.
pub(in crate::cli) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let longest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<_> =
        (0..columns).map(|column| NARROWEST.max(longest(column) + SPACE)).collect();
    let mut text = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            let width =
                if at + 1 == row.len() { 0 } else { widths.get(at).copied().unwrap_or_default() };
            text.push_str(&format!("{cell:width$}"));
        }
        text.push('\n');
    }
    text
}
