//! The temperature of each denoising step.

use super::params::DiffusionParams;

/// A temperature that decreases linearly over the steps of a canvas, in F32 as in the reference:
/// `T = t_min + (t_max − t_min) · n / N` with n counting down from N to 1.
///
/// The first step has `t_max`, the last one `t_min + (t_max − t_min) / N`, so that even `t_min = 0`
/// never divides by zero. If both are equal, all steps have the same temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TemperatureSchedule {
    t_min: f32,
    range: f32,
    max_steps: u32,
}

impl TemperatureSchedule {
    /// The schedule of `params`, which must be [valid](DiffusionParams::validate).
    pub fn new(params: &DiffusionParams) -> Self {
        Self {
            t_min: params.t_min,
            range: params.t_max - params.t_min,
            max_steps: params.max_steps,
        }
    }

    /// The temperature of `step`, counted from 0. Steps after the last one have its temperature.
    pub fn temperature(&self, step: u32) -> f32 {
        let remaining = self.max_steps.saturating_sub(step).max(1);
        self.t_min + self.range * (remaining as f32 / self.max_steps as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(t_min: f32, t_max: f32, max_steps: u32) -> TemperatureSchedule {
        TemperatureSchedule::new(&DiffusionParams {
            t_min,
            t_max,
            max_steps,
            ..DiffusionParams::default()
        })
    }

    #[test]
    fn it_runs_from_t_max_to_just_above_t_min() {
        let default = schedule(0.4, 0.8, 48);
        assert_eq!(default.temperature(0), 0.8);
        assert_eq!(default.temperature(24), 0.6);
        assert_eq!(default.temperature(47), 0.4 + 0.4 * (1.0 / 48.0));
        // Not 0.7: F32 rounds 0.4 + 0.3 up.
        assert_eq!(schedule(0.4, 0.8, 4).temperature(1), 0.700_000_05);
    }

    #[test]
    fn it_falls_strictly_and_stays_positive() {
        for s in [schedule(0.0, 0.8, 48), schedule(0.2, 0.5, 24)] {
            let all: Vec<f32> = (0..s.max_steps).map(|i| s.temperature(i)).collect();
            assert!(all.windows(2).all(|pair| pair[1] < pair[0]), "{all:?}");
            assert!(all.iter().all(|&t| t > 0.0), "{all:?}");
        }
    }

    #[test]
    fn equal_ends_make_it_constant() {
        for temperature in [0.7, 1e-20, f32::MAX] {
            let s = schedule(temperature, temperature, 7);
            assert!((0..7).all(|step| s.temperature(step) == temperature));
        }
    }

    #[test]
    fn a_single_step_runs_at_t_max() {
        assert_eq!(schedule(0.0, 1.0, 1).temperature(0), 1.0);
    }

    #[test]
    fn steps_past_the_end_keep_the_last_temperature() {
        let s = schedule(0.0, 1.0, 2);
        assert_eq!(s.temperature(2), 0.5);
        assert_eq!(s.temperature(u32::MAX), 0.5);
    }
}
