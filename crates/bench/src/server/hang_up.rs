//! Clients that hang up in the middle of their answers, and the time until their slots are free.

use std::io::Read as _;
use std::thread;
use std::time::{Duration, Instant};

use llama_diffusion::Result;
use serde_json::{Value, json};

use super::load::{CHAT, Load, Test};

/// After the shortest time a prompt is being read, after the longest one a canvas is denoised.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_secs(1);
/// Times between looks at the slots.
const LOOK: Duration = Duration::from_millis(1);
/// Looks in a row that find all slots free. A request that waited and was not dropped would have
/// one of them by then.
const LOOKS: usize = 3;
/// How long slots may be in use after all clients are gone.
const PATIENCE: Duration = Duration::from_secs(120);

/// Milliseconds until all slots are free, each time that all streams have hung up.
///
/// # Errors
/// The server does not answer, refuses, or never frees its slots.
pub fn measure(load: &Load<'_>, test: Test) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for round in 0..load.args.cancels {
        wait_until_free(load)?;
        thread::scope(|scope| {
            let ask = |stream| scope.spawn(move || hang_up(load, test, stream, patience(round)));
            let streams: Vec<_> = (0..test.streams).map(ask).collect();
            let mut ends = streams.into_iter().map(thread::ScopedJoinHandle::join);
            ends.try_for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        times.push(wait_until_free(load)?.as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// How long the clients of a round wait: spread evenly over the logarithms, the same each time.
fn patience(round: usize) -> Duration {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let place = (round as f64 * GOLDEN).fract();
    let ratio = LONGEST.as_secs_f64() / SHORTEST.as_secs_f64();
    SHORTEST.mul_f64(ratio.powf(place))
}

/// Asks for an answer without an end, and hangs up after a time.
fn hang_up(load: &Load<'_>, test: Test, stream: usize, after: Duration) -> Result<()> {
    let mut body = load.body(test, stream);
    body["diffusion"]["confidence_threshold"] = 0.into();
    body["diffusion"]["max_steps"] = json!(100_000);
    let start = Instant::now();
    let sent = load.client.post(CHAT, load.key(stream), &body, Some(after));
    let response = match sent {
        Ok(response) => response,
        Err(_) if start.elapsed() >= after => return Ok(()),
        Err(error) => return Err(load.client.unreachable(&error)),
    };
    if response.status() != 200 {
        return Err(load.client.refusal(CHAT, response));
    }
    let mut answer = Vec::new();
    let end = response.into_body().into_reader().read_to_end(&mut answer);
    match end {
        Err(error) if start.elapsed() < after => Err(load.client.interrupted(&error)),
        _ => Ok(()),
    }
}

/// Waits until no slot is in use; returns how long that took.
fn wait_until_free(load: &Load<'_>) -> Result<Duration> {
    let start = Instant::now();
    let mut free: Vec<Duration> = Vec::new();
    while free.len() < LOOKS {
        let slots = load.client.get("/slots", load.key(0))?;
        let is_busy = |slot: &Value| slot["is_processing"] == true;
        match slots
            .as_array()
            .is_some_and(|slots| !slots.iter().any(is_busy))
        {
            true => free.push(start.elapsed()),
            false => free.clear(),
        }
        if start.elapsed() > PATIENCE {
            let problem =
                "slots stay in use: nobody else may use the server while --cancels is measured";
            return Err(load.client.error("/slots", problem));
        }
        thread::sleep(LOOK);
    }
    Ok(free[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_hang_up_early_and_late() {
        let times: Vec<Duration> = (0..20).map(patience).collect();
        assert!(times.iter().all(|time| (SHORTEST..=LONGEST).contains(time)));
        let early = times.iter().filter(|time| time.as_millis() < 10).count();
        let late = times.iter().filter(|time| time.as_millis() > 200).count();
        assert!(early >= 4 && late >= 4, "{times:?}");
    }
}
