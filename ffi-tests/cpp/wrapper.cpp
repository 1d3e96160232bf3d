// The C++ wrapper. Argument: the demo model.
#include <llama_diffusion.hpp>

#include <cstdio>
#include <cstdlib>
#include <type_traits>

using namespace llama_diffusion;

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                                  \
        }                                                                                  \
    } while (0)

std::string other_version();
std::size_t other_vocab_size(const Model &model);

static_assert(!std::is_copy_constructible<Context>::value, "a context has one owner");
static_assert(!std::is_copy_assignable<Context>::value, "a context has one owner");
static_assert(std::is_nothrow_move_constructible<Context>::value, "a context can be handed over");
static_assert(std::is_nothrow_move_assignable<Context>::value, "a context can be handed over");
static_assert(std::is_nothrow_copy_constructible<Model>::value, "models are shared");

namespace {

template <class Call> Error failure(Call call) {
    try {
        call();
    } catch (const Error &error) {
        return error;
    }
    std::fprintf(stderr, "nothing was thrown\n");
    std::exit(1);
}

void errors(const std::string &path) {
    CHECK(failure([] { Model("/no/such/file.gguf"); }).status() == DIFFUSION_STATUS_IO);
    const Model model(path);
    const Error error = failure([&] { model.metadata("no.such.key"); });
    CHECK(error.status() == DIFFUSION_STATUS_NOT_FOUND);
    CHECK(std::string(error.what()).find("'no.such.key'") != std::string::npos);
    ContextParams params;
    params.context_length = 1;
    CHECK(failure([&] { Context(model, params); }).status() == DIFFUSION_STATUS_INVALID_ARGUMENT);
    Context context(model);
    Params bad(model);
    bad.max_steps = 0;
    CHECK(failure([&] { context.generate({5}, bad); }).status() ==
          DIFFUSION_STATUS_INVALID_ARGUMENT);
}

void ownership(const std::string &path) {
    Model model(path);
    Model copy = model;
    CHECK(copy.get() == model.get());
    Model moved = std::move(model);
    CHECK(moved.get() == copy.get() && model.get() == nullptr);
    CHECK(model.architecture().empty() && model.vocab_size() == 0);
    copy = moved;
    CHECK(other_vocab_size(copy) == 2176);
    Context first{Model(path)};
    Context second = std::move(first);
    CHECK(first.get() == nullptr);
    second.reset();
    CHECK(second.cached() == 0);
    second = Context(moved);
}

void generation(const std::string &path) {
    const Model model(path);
    Context context(model);
    const Tokens prompt = model.apply_chat_template(
        R"([{"role": "user", "content": "What is the capital of Norway?"}])");
    Params params(model);
    params.seed = 7;
    int steps = 0, canvases = 0;
    std::int32_t progress = DIFFUSION_PROGRESS_RUNNING;
    params.step = [&](const diffusion_draft &draft) {
        CHECK(progress == DIFFUSION_PROGRESS_RUNNING);
        progress = draft.progress;
        return ++steps > 0;
    };
    params.canvas = [&](const diffusion_canvas &canvas) {
        CHECK(progress == DIFFUSION_PROGRESS_CONVERGED && canvas.converged == 1);
        CHECK(canvas.ended == 1);
        progress = DIFFUSION_PROGRESS_RUNNING; // of the next answer
        return ++canvases > 0;
    };
    const Answer answer = context.generate(prompt, params);
    CHECK(answer.result.steps == static_cast<std::uint64_t>(steps) && canvases == 1);
    const std::string text = model.detokenize(answer.tokens);
    CHECK(text.find("Oslo") != std::string::npos);
    CHECK(context.generate_text("What is the capital of Norway?", params).text == text);

    // Thoughts are separated from the answer, from where the prompt ends.
    const Tokens thought = model.tokenize("<|channel>thought\nhm<channel|>Oslo", false, true);
    CHECK(model.split_answer(prompt, thought).text == "Oslo");
    CHECK(model.split_answer(prompt, thought).thoughts == "hm");
    const Tokens open = model.tokenize("<|channel>thought\n", false, true);
    const Tokens rest = model.tokenize("hm<channel|>Oslo", false, true);
    CHECK(model.split_answer(open, rest).text == "Oslo");
    CHECK(model.split_answer(open, rest).thoughts == "hm");
    CHECK(context.generate_text("What is the capital of Norway?", params).thoughts.empty());
    CHECK(failure([&] { model.split_answer({}, {-1}); }).status() == DIFFUSION_STATUS_TOKENIZER);

    // More than the first guess at the size.
    std::string many;
    for (int i = 0; i < 100; i++)
        many += "What is ";
    CHECK(model.detokenize(model.tokenize(many)) == many);

    // A callback cancels, by itself, through the context, and by an exception.
    params.step = [](const diffusion_draft &) { return false; };
    CHECK(failure([&] { context.generate(prompt, params); }).status() ==
          DIFFUSION_STATUS_CANCELLED);
    params.step = [&](const diffusion_draft &) {
        context.cancel();
        return true;
    };
    CHECK(failure([&] { context.generate(prompt, params); }).status() ==
          DIFFUSION_STATUS_CANCELLED);
    // In a step it cancels; at the last canvas there is an answer already.
    for (const bool last : {false, true}) {
        params.step = nullptr;
        params.canvas = nullptr;
        if (last)
            params.canvas = [](const diffusion_canvas &) -> bool { throw 42; };
        else
            params.step = [](const diffusion_draft &) -> bool { throw 42; };
        for (const bool from_text : {false, true}) {
            try {
                if (from_text)
                    context.generate_text("What is the capital of Norway?", params);
                else
                    context.generate(prompt, params);
                CHECK(!"nothing was thrown");
            } catch (int number) {
                CHECK(number == 42);
            }
        }
    }
    params.canvas = nullptr;
    CHECK(context.generate(prompt, params).tokens == answer.tokens);
}

void canvas(const std::string &path) {
    const Model model(path);
    Context context(model);
    const std::string question = "What is the capital of Norway?";
    Params params(model);
    params.schema = R"({"enum": ["Oslo", "Bern"]})";
    const std::string city = context.generate_text(question, params).text;
    CHECK(city == "\"Oslo\"" || city == "\"Bern\"");
    params.expression = "yes|no";
    CHECK(std::string(failure([&] { context.generate_text(question, params); }).what())
              .find("regex: ") == 0);
    params.schema.clear();
    const std::string word = context.generate_text(question, params).text;
    CHECK(word == "yes" || word == "no");

    Params pinned(model);
    const Tokens start = model.tokenize("The capital of Norway is Bern");
    const Tokens fixed(start.begin(), start.end() - 1);
    pinned.known.resize(1);
    pinned.known[0].fixed(fixed).within({start.back()}).free().begin_with(start);
    int drafts = 0;
    pinned.step = [&](const diffusion_draft &draft) {
        for (std::size_t i = 0; i < start.size() && draft.block == 0; i++)
            CHECK(draft.argmax[i] == start[i]);
        return ++drafts > 0;
    };
    CHECK(context.generate_text(question, pinned).text.find("The capital of Norway is Bern") == 0);
    CHECK(drafts > 0);

    const Tokens prompt = model.apply_chat_template(
        R"([{"role": "user", "content": "What is the capital of Norway?"}])");
    Params repair(model);
    repair.min_logprob = -1.0f;
    const Tokens wrong = model.tokenize("The capital of Norway is Bern.<turn|>", false, true);
    CHECK(model.detokenize(context.check(prompt, wrong, repair).tokens) ==
          "The capital of Norway is Oslo.");
    const std::string form =
        R"({"form": "The capital of Norway is ▢.", "blanks": [{"name": "city", "choices": ["Bern", "Oslo"]}]})";
    CHECK(context.fill(prompt, form).find(R"("text":"The capital of Norway is Oslo.")") !=
          std::string::npos);
    CHECK(std::string(failure([&] { context.fill(prompt, "{}"); }).what()).find("form: ") == 0);
    const Params defaults(model);
    CHECK(context.infill(R"({"input_prefix": "Mia has a ", "input_suffix": " hat."})", defaults)
              .find(R"({"content":")") == 0);
    CHECK(std::string(failure([&] { context.infill(R"({"n_cmpl": 0})", defaults); }).what())
              .find("n_cmpl: ") == 0);
    CHECK(context.edit_text("The cat is red.\n", "Change red to blue", 0.5f, {{1, 1}}, defaults)
              .find("The cat is red.") == 0);
    CHECK(failure([&] { context.edit_text("x", "", 0.5f, {}, defaults); }).status() ==
          DIFFUSION_STATUS_INVALID_ARGUMENT);
}

} // namespace

int main(int argc, char **argv) {
    CHECK(argc == 2);
    CHECK(other_version() == diffusion_version());
    errors(argv[1]);
    ownership(argv[1]);
    generation(argv[1]);
    canvas(argv[1]);
}
