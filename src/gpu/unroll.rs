//! Loops of the shaders that are written out: drivers don't unroll them, because of the guards that naga puts into loops,
//! and an array that is indexed in a loop is then no longer in registers.

use crate::format::ShaderPart;

/// A shader's text: constants, then the parts, each under a line that names it, with their loops written out.
pub(super) fn assemble(constants: String, parts: &[ShaderPart], sizes: &[(&str, usize)]) -> String {
    let mut source = constants;
    for part in parts {
        source.push_str("\n// ---- ");
        source.push_str(part.path);
        source.push('\n');
        source.push_str(&unroll(part.source, sizes));
    }
    source
}

/// Says in a shader that the loop whose first line it ends is to be written out.
const MARK: &str = " // unrolled\n";

/// Replaces each marked loop by one block a pass in which the counter is a constant. `sizes` are the constants that
/// bounds may name. A loop whose bound can't be worked out stays a loop.
pub(super) fn unroll(text: &str, sizes: &[(&str, usize)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(mark) = rest.find(MARK) {
        let line = rest[..mark].rfind('\n').map_or(0, |at| at + 1);
        let body = mark + MARK.len();
        let indent = &rest[line..][..rest[line..].len() - rest[line..].trim_start().len()];
        let close = format!("\n{indent}}}\n");
        let pass = header(rest[line..mark].trim(), sizes).zip(rest[body..].find(&close));
        let Some(((counter, n), end)) = pass else {
            out.push_str(&rest[..body]);
            rest = &rest[body..];
            continue;
        };
        out.push_str(&rest[..line]);
        let inner = unroll(&rest[body..=body + end], sizes);
        for i in 0..n {
            out.push_str(&format!("{indent}{{ const {counter} = {i}u;\n{inner}{indent}}}\n"));
        }
        rest = &rest[body + end + close.len()..];
    }
    out + rest
}

/// Counter and number of passes of `for (var i = 0u; i < BOUND; i++) {`.
fn header<'a>(line: &'a str, sizes: &[(&str, usize)]) -> Option<(&'a str, usize)> {
    let (counter, rest) = line.strip_prefix("for (var ")?.split_once(" = 0u; ")?;
    let bound = rest.strip_prefix(counter)?.strip_prefix(" < ")?.strip_suffix("++) {")?.strip_suffix(counter)?;
    let mut factors = bound.strip_suffix("; ")?.split(" / ").map(|word| match word.strip_suffix('u') {
        Some(number) => number.parse().ok(),
        None => sizes.iter().find(|(name, _)| *name == word).map(|&(_, size)| size),
    });
    let first = factors.next()??;
    Some((counter, factors.try_fold(first, |n, factor| n.checked_div(factor?))?))
}

#[cfg(test)]
mod tests {
    use super::unroll;

    #[test]
    fn nested_loops_are_written_out_and_others_stay() {
        let text = "a\n    for (var i = 0u; i < BLOCK / 2u; i++) { // unrolled\n        for (var k = 0u; k < 2u; k++) { // unrolled\n            x[i] += k;\n        }\n    }\nb\n    for (var i = 0u; i < n; i++) {\n    }\n";
        let out = unroll(text, &[("BLOCK", 4)]);
        assert_eq!(out.matches("x[i] += k;").count(), 4);
        assert_eq!(out.matches("const i = 1u;").count(), 1);
        assert_eq!(out.matches("const k = 1u;").count(), 2);
        assert!(
            out.starts_with("a\n    { const i = 0u;\n")
                && out.contains("\n    }\nb\n    for (var i = 0u; i < n; i++) {\n    }\n")
        );
    }

    #[test]
    fn a_bound_that_is_unknown_leaves_the_loop() {
        let text = "for (var i = 0u; i < N; i++) { // unrolled\n    f(i);\n}\n";
        assert_eq!(unroll(text, &[("BLOCK", 4)]), text);
    }
}
