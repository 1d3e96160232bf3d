//! Recordings of drafts that no model wrote.

use serde_json::{Value, json};

/// The lines of a recording of these drafts, where each text is a token, and then of the last one as the answer. All
/// tokens are accepted but every third one.
pub fn lines(drafts: &[Vec<&str>]) -> Vec<Value> {
    let mut known: Vec<&str> = drafts.concat();
    known.sort_unstable();
    known.dedup();
    let ids = |draft: &[&str]| -> Vec<usize> {
        draft
            .iter()
            .map(|piece| known.binary_search(piece).unwrap())
            .collect()
    };
    let pieces: Vec<_> = known
        .iter()
        .enumerate()
        .map(|(id, piece)| json!([id, piece.as_bytes()]))
        .collect();
    let mut lines = vec![
        json!({"event": "start", "format": 1, "channel": null}),
        json!({"event": "pieces", "pieces": pieces}),
    ];
    for (step, draft) in drafts.iter().enumerate() {
        let tokens = ids(draft);
        let accepted: Vec<bool> = (0..tokens.len())
            .map(|position| position % 3 != 2)
            .collect();
        lines.push(json!({
            "event": "draft", "block": 0, "step": step, "max_steps": drafts.len(), "temperature": 0.5,
            "mean_entropy": 0.1, "stable": false, "progress": "running", "canvas": tokens, "argmax": tokens,
            "sampled": tokens, "accepted": accepted, "entropy": vec![0.1; tokens.len()],
        }));
    }
    let tokens = ids(drafts.last().unwrap());
    lines.push(json!({
        "event": "canvas", "block": 0, "steps": drafts.len(), "converged": true, "tokens": tokens,
        "answer": tokens, "generated": tokens.len(), "ended": true,
    }));
    lines.push(json!({"event": "end"}));
    lines
}

/// A file of these lines.
pub fn text(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}
