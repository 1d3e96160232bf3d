//! How many canvases a pass reads where it is measured.

use std::time::Duration;

/// The numbers that are tried, in turn.
const NUMBERS: [usize; 4] = [1, 2, 4, 8];

/// The share of all time that trying may cost.
const BUDGET: f64 = 0.04;

/// How much a new measurement counts.
const NEW: f64 = 0.25;

/// Finds the number of canvases with which steps take the least time. Trying what turns out to be slower
/// costs a fixed share of the time at most.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// Seconds of a pass with one canvas.
    single: Option<f64>,
    /// Seconds of all passes, and what their steps would have taken one by one.
    spent: f64,
    one_by_one: f64,
    /// For each number after 1: time of a step alone, divided by its time in such passes.
    speed: [Option<f64>; NUMBERS.len()],
    /// How often each was tried and found slower.
    failed: [i32; NUMBERS.len()],
    latest: Option<Latest>,
}

/// A pass whose canvases are in use.
#[derive(Clone, Copy, Debug)]
struct Latest {
    number: usize,
    seconds: f64,
    steps: u32,
}

impl Pace {
    /// Maximum number of canvases.
    pub(super) const MAX: usize = NUMBERS[NUMBERS.len() - 1];

    /// A text of another length: one canvas is measured again, ratios stay.
    pub(super) fn restart(&mut self) {
        self.settle();
        self.single = None;
    }

    /// The number of canvases of the next pass, at most `limit`.
    pub(super) fn next(&mut self, limit: usize) -> usize {
        self.settle();
        let Some(single) = self.single else {
            return 1;
        };
        let speed = |index: usize| self.speed[index].unwrap_or(if index == 0 { 1.0 } else { 0.0 });
        let allowed = NUMBERS
            .iter()
            .filter(|number| **number <= limit)
            .count()
            .max(1);
        let best = (0..allowed).max_by(|a, b| speed(*a).total_cmp(&speed(*b)));
        let best = best.unwrap_or(0);
        let more = best + 1;
        if more < allowed && self.speed[more].is_none_or(|speed| speed < 1.0) {
            let risk = single * (NUMBERS[more] - 1) as f64 * 2_f64.powi(self.failed[more]);
            if self.spent - self.one_by_one + risk <= BUDGET * self.spent {
                return NUMBERS[more];
            }
        }
        NUMBERS[best]
    }

    /// A pass over `number` canvases has taken this long, with its guesses.
    pub(super) fn passed(&mut self, number: usize, time: Duration) {
        self.settle();
        self.latest = Some(Latest {
            number,
            seconds: time.as_secs_f64(),
            steps: 0,
        });
    }

    /// A step has used a canvas of the latest pass.
    pub(super) fn stepped(&mut self) {
        if let Some(latest) = &mut self.latest {
            latest.steps += 1;
        }
    }

    /// Takes the measurement of the latest pass.
    fn settle(&mut self) {
        let Some(latest) = self.latest.take() else {
            return;
        };
        let mix = |old: Option<f64>, new: f64| Some(old.map_or(new, |old| old + NEW * (new - old)));
        if latest.number == 1 {
            // The first pass of a shape takes longer.
            self.single = match self.single {
                Some(single) if latest.seconds < single => Some(latest.seconds),
                single => mix(single, latest.seconds),
            };
        }
        let Some(single) = self.single else {
            return;
        };
        let one_by_one = f64::from(latest.steps) * single;
        self.spent += latest.seconds;
        self.one_by_one += one_by_one;
        let index = NUMBERS.iter().position(|number| *number >= latest.number);
        if let Some(index) = index.filter(|index| *index > 0) {
            let speed = one_by_one / latest.seconds.max(f64::MIN_POSITIVE);
            self.speed[index] = mix(self.speed[index], speed);
            self.failed[index] = match self.speed[index] {
                Some(speed) if speed < 1.0 => self.failed[index] + 1,
                _ => 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time of this number of steps, by the seconds of a pass and the steps that it serves.
    fn run(
        pace: &mut Pace,
        steps: u32,
        seconds: impl Fn(usize) -> f64,
        serves: impl Fn(usize) -> u32,
    ) -> (f64, usize) {
        let (mut done, mut time, mut number) = (0, 0.0, 1);
        while done < steps {
            number = pace.next(Pace::MAX);
            time += seconds(number);
            pace.passed(number, Duration::from_secs_f64(seconds(number)));
            for _ in 0..serves(number) {
                pace.stepped();
            }
            done += serves(number);
        }
        (time, number)
    }

    #[test]
    fn passes_that_take_longer_are_rarely_tried() {
        let mut pace = Pace::default();
        for answer in 0..20 {
            pace.restart();
            // Each canvas costs what it costs alone, and half of the guesses are wrong.
            let serves = |number: usize| number.div_ceil(2) as u32;
            let (time, _) = run(&mut pace, 128, |number| 0.01 * number as f64, serves);
            assert!(time <= 1.28 * 1.05, "answer {answer}: {time}");
        }
    }

    #[test]
    fn passes_that_take_no_longer_read_as_many_as_possible() {
        let mut pace = Pace::default();
        let (time, number) = run(&mut pace, 256, |_| 0.01, |number| number as u32);
        assert_eq!(number, Pace::MAX);
        assert!(time < 2.56 / 3.0, "{time}");
        // The next answer begins with one, to measure it, and goes on as before.
        pace.restart();
        let (time, _) = run(&mut pace, 256, |_| 0.01, |number| number as u32);
        assert!(time < 2.56 / 7.0, "{time}");
    }

    #[test]
    fn the_number_of_least_time_is_found() {
        let mut pace = Pace::default();
        // Of 8, no more are right than of 4.
        let serves = |number: usize| number.min(4) as u32;
        let seconds = |number: usize| 0.01 * (1.0 + 0.1 * number as f64);
        let (_, number) = run(&mut pace, 512, seconds, serves);
        assert_eq!(number, 4);
        assert_eq!(pace.next(2), 2);
        assert_eq!(pace.next(1), 1);
    }
}
