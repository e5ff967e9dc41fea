//! Sine, cosine and the angle of a vector from additions, multiplications and divisions alone. Those of the standard
//! library may differ in the last digit between systems; these give the same bits everywhere, and so the same pictures.
//!
//! Angles are in turns: 0 points right, 0.25 down (as rows of pixels run), 0.5 left, 0.75 up.

/// The sine of an angle in turns, to within 0.0012.
pub(crate) fn sine(turns: f32) -> f32 {
    let x = turns - turns.round();
    // A parabola through the zeros and the extremes, and its square mixed in: what is left of the error is small.
    let parabola = 8.0 * x - 16.0 * x * x.abs();
    parabola + 0.225 * (parabola * parabola.abs() - parabola)
}

/// The cosine of an angle in turns, to within 0.0012.
pub(crate) fn cosine(turns: f32) -> f32 {
    sine(turns + 0.25)
}

/// The unit vector (x, y) that points into a direction, in turns.
pub(crate) fn direction(turns: f32) -> (f32, f32) {
    (cosine(turns), sine(turns))
}

/// The direction of a vector in turns, from 0 up to 1, to within 0.001; 0 for the vector without length.
pub(crate) fn turns_of(x: f32, y: f32) -> f32 {
    let (along, across) = (x.abs(), y.abs());
    let (small, large) = (along.min(across), along.max(across));
    if large == 0.0 {
        return 0.0;
    }
    let ratio = small / large;
    // The arc tangent between 0 and 45 degrees, over a full turn.
    let eighth = ratio * (0.125 + 0.043_45 * (1.0 - ratio));
    let quarter = if across > along { 0.25 - eighth } else { eighth };
    let half = if x < 0.0 { 0.5 - quarter } else { quarter };
    if y < 0.0 { 1.0 - half } else { half }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::TAU;

    #[test]
    fn they_agree_with_the_standard_library() {
        for step in -500..500 {
            let turns = step as f32 * 0.00731;
            assert!((sine(turns) - (turns * TAU).sin()).abs() < 0.0012, "sine of {turns}");
            assert!((cosine(turns) - (turns * TAU).cos()).abs() < 0.0012, "cosine of {turns}");
            let (x, y) = ((turns * TAU).cos(), (turns * TAU).sin());
            let off = turns_of(3.0 * x, 3.0 * y) - turns;
            assert!((off - off.round()).abs() < 0.001, "direction of {turns}");
        }
        assert_eq!(turns_of(0.0, 0.0), 0.0);
    }
}
