//! The nearest word to a mistyped one.

/// The candidate that `word` was most likely meant to be, if any is near enough to say so.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    // One slip in three letters: beyond that a guess misleads more often than it helps.
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        for (word, want) in [
            ("htps", Some("https")),
            ("htpt", Some("http")),
            ("state-dir", Some("state_dir")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, ["http", "https", "state_dir"]), want, "{word}");
        }
    }
}
