//! Numbers, sizes and durations in the form that people read.

use std::fmt;
use std::time::Duration;

use indicatif::HumanCount;

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A size, such as `49 B` or `20.6 MiB`.
#[derive(Clone, Copy)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }

        let mut value = self.0 as f64 / 1024.0;
        let mut unit = UNITS[0];
        for larger in &UNITS[1..] {
            // 1023.95 KiB would be printed as 1024.0 KiB.
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
            unit = larger;
        }
        f.pad(&format!("{value:.1} {unit}"))
    }
}

/// A number with thousands separators, such as `4,061`.
#[derive(Clone, Copy)]
pub struct Number(pub u64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HumanCount(self.0).to_string())
    }
}

/// A number of things, such as `1 path` or `4,061 paths`.
#[derive(Clone, Copy)]
pub struct Count {
    number: u64,
    noun: &'static str,
    plural: &'static str,
}

impl Count {
    /// Counts things whose plural is `plural`.
    pub fn new(number: usize, noun: &'static str, plural: &'static str) -> Self {
        Count { number: number as u64, noun, plural }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.number == 1 { self.noun } else { self.plural };
        write!(f, "{} {noun}", Number(self.number))
    }
}

/// Seconds with one decimal; `None` for a duration that rounds to 0.0 s.
pub fn seconds(duration: Duration) -> Option<String> {
    let text = format!("{:.1} s", duration.as_secs_f64());
    (text != "0.0 s").then_some(text)
}

/// A duration in the largest unit that divides it, such as `30 days` or `90 seconds`.
pub fn exact_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "day", "days"), (3600, "hour", "hours"), (60, "minute", "minutes")];
    let divides = |length: u64| seconds > 0 && seconds.is_multiple_of(length);
    let (length, noun, plural) =
        units.into_iter().find(|(length, ..)| divides(*length)).unwrap_or((1, "second", "seconds"));
    let number = seconds / length;
    format!("{} {}", Number(number), if number == 1 { noun } else { plural })
}

/// Milliseconds, rounded up: a switch of the live tree never takes no time.
pub fn milliseconds(duration: Duration) -> String {
    format!("{} ms", Number(duration.as_micros().div_ceil(1000) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_and_binary_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (26_634, "26.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (21_600_000, "20.6 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>8}|", Size(7)), "     7 B|");
    }

    #[test]
    fn counts_have_separators_and_plurals() {
        assert_eq!(Count::new(1, "entry", "entries").to_string(), "1 entry");
        assert_eq!(Count::new(4061, "entry", "entries").to_string(), "4,061 entries");
    }

    #[test]
    fn exact_durations_have_largest_unit_that_divides_them() {
        for (seconds, text) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (5, "5 seconds"),
            (90, "90 seconds"),
            (120, "2 minutes"),
            (3600, "1 hour"),
            (86_400, "1 day"),
            (90_000, "25 hours"),
            (30 * 86_400, "30 days"),
        ] {
            assert_eq!(exact_duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn durations_that_round_to_zero_are_omitted() {
        assert_eq!(seconds(Duration::from_millis(49)), None);
        assert_eq!(seconds(Duration::from_millis(340)).as_deref(), Some("0.3 s"));
        assert_eq!(milliseconds(Duration::from_micros(6100)), "7 ms");
    }
}
