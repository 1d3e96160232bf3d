package diffusion

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

const norway = `[{"role": "user", "content": "What is the capital of Norway?"}]`

// demo loads the model that the environment names.
func demo(t *testing.T) (*Model, *Context, []Token) {
	t.Helper()
	model, err := Load(os.Getenv("DIFFUSION_TEST_MODEL"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := model.NewContext(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		model.Close()
	})
	prompt, err := model.Chat(norway)
	if err != nil {
		t.Fatal(err)
	}
	return model, c, prompt
}

func TestGenerate(t *testing.T) {
	model, c, prompt := demo(t)
	steps := 0
	var streamed []Token
	var last Draft
	var final Canvas
	answer, err := c.Generate(context.Background(), prompt, Params{
		Seed: 7,
		OnStep: func(draft Draft) {
			if draft.Step != steps || len(draft.Argmax) != 32 || len(draft.Accepted) != 32 || len(draft.Probability) != 32 {
				t.Errorf("step %d: %+v", steps, draft)
			}
			if steps > 0 && last.Progress != Running {
				t.Errorf("step %d after the last one: %+v", steps, last)
			}
			last = draft
			steps++
		},
		OnCanvas: func(canvas Canvas) {
			final = canvas
			streamed = append(streamed, canvas.Tokens...)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if answer.Steps != steps || answer.Blocks != 1 || !answer.Ended || answer.Reused != 0 {
		t.Errorf("%+v after %d steps", answer, steps)
	}
	if last.Progress != Converged || !final.Converged || !final.Ended || final.Block != 0 || final.Steps != steps {
		t.Errorf("%+v, %+v after %d steps", last, final, steps)
	}
	if !reflect.DeepEqual(streamed, answer.Tokens) {
		t.Errorf("streamed %v, returned %v", streamed, answer.Tokens)
	}
	text, err := model.Detokenize(answer.Tokens)
	if err != nil || !strings.Contains(text, "Oslo") {
		t.Errorf("%q, %v", text, err)
	}
	again, err := c.Generate(context.Background(), prompt, Params{Seed: 7})
	if err != nil || again.Reused != len(prompt) || !reflect.DeepEqual(again.Tokens, answer.Tokens) {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestThoughtsAreApart(t *testing.T) {
	model, c, prompt := demo(t)
	answer, err := c.Generate(context.Background(), prompt, Params{Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	text, thoughts, err := model.Split(prompt, answer.Tokens)
	if err != nil || !strings.Contains(text, "Oslo") || thoughts != "" {
		t.Errorf("%q, %q, %v", text, thoughts, err)
	}
	// Tokens of the demo model around a thought.
	const open, closed Token = 7, 8
	words := func(text string) []Token {
		tokens, err := model.Tokenize(text)
		if err != nil {
			t.Fatal(err)
		}
		return tokens
	}
	thought := append(append([]Token{open}, words("hm")...), closed)
	text, thoughts, err = model.Split(prompt, append(thought, words("Oslo")...))
	if err != nil || text != "Oslo" || thoughts != "hm" {
		t.Errorf("%q, %q, %v", text, thoughts, err)
	}
	// A prompt may end inside a thought.
	text, thoughts, err = model.Split([]Token{open}, append(words("hm"), closed))
	if err != nil || text != "" || thoughts != "hm" {
		t.Errorf("%q, %q, %v", text, thoughts, err)
	}
	if _, _, err := model.Split(nil, []Token{-1}); !errors.Is(err, Tokenizer) {
		t.Errorf("%v", err)
	}
}

func TestTextThereAndBack(t *testing.T) {
	model, _, _ := demo(t)
	for _, text := range []string{"", "a", strings.Repeat("What is ", 200)} {
		tokens, err := model.Tokenize(text)
		if err != nil {
			t.Fatal(err)
		}
		back, err := model.Detokenize(tokens)
		if err != nil || back != text {
			t.Errorf("%q, %v", back, err)
		}
	}
}

func TestErrors(t *testing.T) {
	_, err := Load("/no/such/file.gguf")
	var failure *Error
	if !errors.Is(err, IO) || errors.Is(err, Busy) || !errors.As(err, &failure) ||
		!strings.Contains(failure.Message, "/no/such/file.gguf") {
		t.Errorf("%v", err)
	}
	_, c, _ := demo(t)
	if _, err := c.Generate(context.Background(), nil, Params{}); !errors.Is(err, InvalidArgument) {
		t.Errorf("%v", err)
	}
	if _, err := c.Generate(context.Background(), make([]Token, 2048), Params{}); !errors.Is(err, ContextFull) {
		t.Errorf("%v", err)
	}
}

func TestCancel(t *testing.T) {
	_, c, prompt := demo(t)
	want, err := c.Generate(context.Background(), prompt, Params{})
	if err != nil {
		t.Fatal(err)
	}

	before, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = c.Generate(before, prompt, Params{})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, Cancelled) {
		t.Errorf("cancelled before: %v", err)
	}

	during, cancel := context.WithCancel(context.Background())
	steps := 0
	_, err = c.Generate(during, prompt, Params{OnStep: func(Draft) {
		steps++
		cancel()
	}})
	if !errors.Is(err, context.Canceled) || steps != 1 {
		t.Errorf("cancelled in step %d: %v", steps, err)
	}

	late, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err = c.Generate(late, prompt, Params{OnStep: func(Draft) { <-late.Done() }})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("timed out: %v", err)
	}

	got, err := c.Generate(context.Background(), prompt, Params{})
	if err != nil || !reflect.DeepEqual(got.Tokens, want.Tokens) {
		t.Errorf("afterwards: %+v, %v", got, err)
	}
}

func TestBusy(t *testing.T) {
	_, c, prompt := demo(t)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	closed := make(chan struct{})
	_, err := c.Generate(context.Background(), prompt, Params{OnStep: func(draft Draft) {
		if draft.Step == 0 {
			go func() { // waits for the end of all of this
				c.Close()
				close(closed)
			}()
		}
		// Neither does it wait for itself, nor does the context of one that may not run cancel it.
		for _, ctx := range []context.Context{context.Background(), over} {
			if _, err := c.Generate(ctx, prompt, Params{}); !errors.Is(err, Busy) {
				t.Errorf("%v", err)
			}
		}
	}})
	if err != nil {
		t.Error(err)
	}
	<-closed
	if _, err := c.Generate(context.Background(), prompt, Params{}); err != ErrClosed {
		t.Errorf("%v", err)
	}
}

func TestPanicsOfCallbacksComeThrough(t *testing.T) {
	_, c, prompt := demo(t)
	func() {
		defer func() {
			if got := recover(); got != "from the callback" {
				t.Errorf("recovered %v", got)
			}
		}()
		c.Generate(context.Background(), prompt, Params{OnStep: func(Draft) { panic("from the callback") }})
	}()
	if _, err := c.Generate(context.Background(), prompt, Params{}); err != nil {
		t.Error(err)
	}
}

func TestContextsShareAModel(t *testing.T) {
	model, c, prompt := demo(t)
	want, err := c.Generate(context.Background(), prompt, Params{})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			own, err := model.NewContext(1)
			if err != nil {
				t.Error(err)
				return
			}
			defer own.Close()
			got, err := own.Generate(context.Background(), prompt, Params{})
			if err != nil || !reflect.DeepEqual(got.Tokens, want.Tokens) {
				t.Errorf("%+v, %v", got, err)
			}
		}()
	}
	group.Wait()
}

func TestClose(t *testing.T) {
	model, c, prompt := demo(t)
	for i := 0; i < 2; i++ {
		if model.Close() != nil {
			t.Error("Close failed")
		}
	}
	if _, err := c.Generate(context.Background(), prompt, Params{}); err != nil {
		t.Errorf("after the model's Close: %v", err)
	}
	for i := 0; i < 2; i++ {
		if c.Close() != nil {
			t.Error("Close failed")
		}
	}
	if _, err := c.Generate(context.Background(), prompt, Params{}); err != ErrClosed {
		t.Errorf("%v", err)
	}
	if _, err := model.Tokenize("a"); err != ErrClosed {
		t.Errorf("%v", err)
	}
	if _, err := model.NewContext(1); err != ErrClosed {
		t.Errorf("%v", err)
	}
}

func TestConstraintsAndTemplates(t *testing.T) {
	model, c, prompt := demo(t)
	ask := func(params Params) (string, error) {
		answer, err := c.Generate(context.Background(), prompt, params)
		if err != nil {
			return "", err
		}
		text, _, err := model.Split(prompt, answer.Tokens)
		return text, err
	}
	if text, err := ask(Params{Schema: `{"enum": ["Oslo", "Bern"]}`}); err != nil || text != `"Oslo"` && text != `"Bern"` {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := ask(Params{Regex: "yes|no"}); err != nil || text != "yes" && text != "no" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := ask(Params{Regex: "("}); !errors.Is(err, InvalidArgument) || !strings.Contains(err.Error(), "regex: ") {
		t.Errorf("%v", err)
	}
	if text, err := ask(Params{Ahead: 2}); err != nil || !strings.Contains(text, "Oslo") {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := ask(Params{Ahead: 1, Regex: "yes"}); !errors.Is(err, InvalidArgument) || !strings.Contains(err.Error(), "ahead: ") {
		t.Errorf("%v", err)
	}
	start, err := model.Tokenize("The capital of Norway is Bern")
	if err != nil {
		t.Fatal(err)
	}
	last := len(start) - 1
	drafts := 0
	text, err := ask(Params{
		Templates: []Template{{Fixed: start[:last], Within: map[int][]Token{last: {start[last]}}, Initial: start}},
		OnStep: func(draft Draft) {
			drafts++
			if draft.Block == 0 && !reflect.DeepEqual(draft.Argmax[:last+1], start) {
				t.Errorf("%v", draft.Argmax)
			}
		},
	})
	if err != nil || drafts == 0 || !strings.HasPrefix(text, "The capital of Norway is Bern") {
		t.Errorf("%d, %q, %v", drafts, text, err)
	}
	if _, err := ask(Params{Templates: []Template{{Fixed: make([]Token, 33)}}}); !errors.Is(err, InvalidArgument) {
		t.Errorf("%v", err)
	}
}

func TestCheckAndEdit(t *testing.T) {
	model, c, prompt := demo(t)
	wrong, err := model.Tokenize("The capital of Norway is Bern.")
	if err != nil {
		t.Fatal(err)
	}
	const endOfTurn Token = 6
	answer, err := c.Check(context.Background(), prompt, append(wrong, endOfTurn), Params{MinLogprob: -1})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := model.Detokenize(answer.Tokens); err != nil || text != "The capital of Norway is Oslo." {
		t.Errorf("%q, %v", text, err)
	}
	const line = "The cat is red.\n"
	edited, err := c.Edit(context.Background(), line, "Change red to blue", 0.5, []Lines{{1, 1}}, Params{})
	if err != nil || !strings.HasPrefix(edited, "The cat is red.") {
		t.Errorf("%q, %v", edited, err)
	}
	if _, err := c.Edit(context.Background(), line, "", 0.5, nil, Params{}); !errors.Is(err, InvalidArgument) {
		t.Errorf("%v", err)
	}
}

func TestInfill(t *testing.T) {
	_, c, _ := demo(t)
	const request = `{"input_prefix": "Mia has a ", "input_suffix": " hat."}`
	steps := 0
	answer, err := c.Infill(context.Background(), request, Params{OnStep: func(Draft) { steps++ }})
	if err != nil || !strings.HasPrefix(answer, `{"content":"`) || steps == 0 {
		t.Errorf("%q, %v, %d steps", answer, err, steps)
	}
	if _, err := c.Infill(context.Background(), `{"n_cmpl": 0}`, Params{}); !errors.Is(err, InvalidArgument) {
		t.Errorf("%v", err)
	}
}

func TestFill(t *testing.T) {
	_, c, prompt := demo(t)
	const form = `{"form": "The capital of Norway is ▢.", "blanks": [{"name": "city", "choices": ["Bern", "Oslo"]}]}`
	answer, err := c.Fill(context.Background(), prompt, form)
	if err != nil || !strings.Contains(answer, `"text":"The capital of Norway is Oslo."`) {
		t.Errorf("%q, %v", answer, err)
	}
	if _, err := c.Fill(context.Background(), prompt, "{}"); !errors.Is(err, InvalidArgument) {
		t.Errorf("%v", err)
	}
}
