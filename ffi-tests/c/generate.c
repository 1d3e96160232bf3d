/* Models, text and generation with streaming drafts. Arguments: the demo model, a golden model. */
#include "check.h"

static int loads;

static bool count_loads(float progress, void *user_data) {
    CHECK(progress >= 0.0f && progress <= 1.0f);
    CHECK(user_data == &loads);
    loads++;
    return true;
}

static int messages;

static void count_messages(int32_t level, const char *target, const char *message, void *data) {
    CHECK(level >= DIFFUSION_LOG_LEVEL_ERROR && level <= DIFFUSION_LOG_LEVEL_DEBUG);
    CHECK(strlen(target) > 0 && strlen(message) > 0);
    CHECK(message[strlen(message) - 1] != '\n');
    CHECK(data == &messages);
    messages++;
}

static void library(void) {
    char version[32];
    size_t devices = 0;
    diffusion_device device;
    snprintf(version, sizeof version, "%d.%d.%d", DIFFUSION_VERSION_MAJOR,
             DIFFUSION_VERSION_MINOR, DIFFUSION_VERSION_PATCH);
    CHECK(strcmp(diffusion_version(), version) == 0);
    CHECK(diffusion_abi_version() == DIFFUSION_ABI_VERSION);
    CALL(diffusion_device_count(&devices, &error));
    CHECK(devices >= 1);
    device.struct_size = sizeof device;
    CALL(diffusion_device_get(devices - 1, &device, &error));
    CHECK(device.struct_size == sizeof device);
    CHECK(strlen(device.name) > 0 && strlen(device.description) > 0);
    CHECK(device.kind >= DIFFUSION_DEVICE_TYPE_CPU);
}

static diffusion_model *load(const char *path) {
    diffusion_model_params params;
    diffusion_model *model = NULL;
    CALL(diffusion_log_set(count_messages, DIFFUSION_LOG_LEVEL_DEBUG, &messages, &error));
    CALL(diffusion_model_params_init(&params, sizeof params, &error));
    params.devices = "none";
    params.tensor_overrides = "ffn_.*=CPU,attn=CPU";
    params.progress = count_loads;
    params.user_data = &loads;
    CALL(diffusion_model_load(path, &params, &model, &error));
    CHECK(loads > 0 && messages > 0);
    CALL(diffusion_log_set(NULL, DIFFUSION_LOG_LEVEL_ERROR, NULL, &error));
    messages = 0;
    return model;
}

static void describe(const diffusion_model *model) {
    char name[64];
    size_t size = 0;
    CHECK(strcmp(diffusion_model_architecture(model), "diffusion-gemma") == 0);
    CHECK(diffusion_model_vocab_size(model) == 2176);
    CHECK(diffusion_model_canvas_length(model) == 32);
    CHECK(diffusion_model_context_length(model) == 2048);
    CHECK(diffusion_model_is_end_token(model, 1) && diffusion_model_is_end_token(model, 6));
    CHECK(!diffusion_model_is_end_token(model, 7) && !diffusion_model_is_end_token(model, -1));
    CALL(diffusion_model_metadata(model, "general.architecture", name, sizeof name, &size, &error));
    CHECK(size == sizeof "diffusion-gemma" && strcmp(name, "diffusion-gemma") == 0);
    CALL(diffusion_model_metadata(model, "diffusion.canvas_length", name, sizeof name, &size,
                                  &error));
    CHECK(strcmp(name, "32") == 0);
}

static void text(const diffusion_model *model) {
    static const char words[] = "What is the capital of Norway?";
    int32_t tokens[64];
    char back[64];
    size_t needed = 0, count = 0, size = 0;
    FAILS(diffusion_tokenize(model, words, strlen(words), false, false, NULL, 0, &needed, &error),
          DIFFUSION_STATUS_BUFFER_TOO_SMALL, "are needed");
    CHECK(needed > 0 && needed <= 64);
    CALL(diffusion_tokenize(model, words, strlen(words), false, false, tokens, needed, &count,
                            &error));
    CHECK(count == needed);
    CALL(diffusion_detokenize(model, tokens, count, false, back, sizeof back, &size, &error));
    CHECK(size == sizeof words && strcmp(back, words) == 0);
    CALL(diffusion_tokenize(model, NULL, 0, false, false, NULL, 0, &count, &error));
    CHECK(count == 0);
    /* A control token counts only where it was asked for. */
    CALL(diffusion_tokenize(model, "<bos>", 5, false, true, tokens, 64, &count, &error));
    CHECK(count == 1);
    CALL(diffusion_tokenize(model, "<bos>", 5, false, false, tokens, 64, &count, &error));
    CHECK(count > 1);
}

typedef struct stream {
    const diffusion_model *model;
    uint32_t steps, canvases;
    token_list answer;
    float first_entropy, last_entropy;
    diffusion_progress progress; /* of the latest draft */
    int32_t ended;               /* of the latest canvas */
    size_t length;               /* of a canvas, if it is not the model's */
    int32_t held[CAPACITY];      /* what was accepted last at each position, -1 for nothing */
    bool corrected[CAPACITY];
    size_t corrected_positions, corrections;
    uint32_t by_step[DIFFUSION_CORRECTION_STEPS];
    diffusion_correction last_correction;
} stream;

static void hold(stream *seen, const diffusion_draft *draft, size_t position, int32_t token) {
    const int32_t before = seen->held[position];
    seen->held[position] = token;
    if (before < 0 || before == token)
        return;
    seen->corrections++;
    seen->corrected_positions += !seen->corrected[position];
    seen->corrected[position] = true;
    seen->by_step[draft->step]++;
    seen->last_correction.block = draft->block;
    seen->last_correction.step = draft->step;
    seen->last_correction.canvas_position = (uint32_t)position;
    seen->last_correction.from = before;
    seen->last_correction.to = token;
}

static void count_corrections(stream *seen, const diffusion_draft *draft) {
    size_t i;
    CHECK(draft->length <= CAPACITY && draft->step < DIFFUSION_CORRECTION_STEPS);
    for (i = 0; i < draft->length && draft->step == 0; i++) {
        seen->held[i] = -1;
        seen->corrected[i] = false;
    }
    for (i = 0; i < draft->length; i++)
        if (draft->accepted[i])
            hold(seen, draft, i, draft->canvas[i]);
    for (i = 0; i < draft->length && draft->progress != DIFFUSION_PROGRESS_RUNNING; i++)
        if (seen->held[i] >= 0)
            hold(seen, draft, i, draft->argmax[i]);
}

static bool on_step(const diffusion_draft *draft, void *user_data) {
    stream *seen = user_data;
    float sum = 0.0f;
    char text[4096];
    size_t size = 0, i;
    CHECK(draft->struct_size == sizeof *draft);
    CHECK(draft->length ==
          (seen->length > 0 ? seen->length : diffusion_model_canvas_length(seen->model)));
    count_corrections(seen, draft);
    CHECK(draft->block == seen->canvases && draft->step < draft->max_steps);
    /* A draft that says that its canvas is done is the last one of it. */
    CHECK(draft->step == 0 || seen->progress == DIFFUSION_PROGRESS_RUNNING);
    CHECK(draft->progress != DIFFUSION_PROGRESS_OUT_OF_STEPS ||
          draft->step + 1 == draft->max_steps);
    seen->progress = draft->progress;
    CHECK(draft->temperature > 0.0f);
    for (i = 0; i < draft->length; i++) {
        const size_t vocab = diffusion_model_vocab_size(seen->model);
        CHECK((size_t)draft->argmax[i] < vocab && (size_t)draft->sampled[i] < vocab);
        CHECK(draft->entropy[i] >= 0.0f);
        CHECK(!draft->accepted[i] || draft->canvas[i] == draft->sampled[i]);
        sum += draft->entropy[i];
    }
    sum /= (float)draft->length;
    CHECK(sum - draft->mean_entropy < 1e-3f && draft->mean_entropy - sum < 1e-3f);
    if (seen->steps == 0)
        seen->first_entropy = draft->mean_entropy;
    seen->last_entropy = draft->mean_entropy;
    /* Functions of the model may be called from here. */
    CALL(diffusion_detokenize(seen->model, draft->argmax, draft->length, true, text, sizeof text,
                              &size, &error));
    seen->steps++;
    return true;
}

static bool on_canvas(const diffusion_canvas *canvas, void *user_data) {
    stream *seen = user_data;
    CHECK(canvas->struct_size == sizeof *canvas);
    CHECK(canvas->block == seen->canvases && canvas->steps > 0);
    CHECK(seen->progress != DIFFUSION_PROGRESS_RUNNING);
    CHECK(canvas->converged == (seen->progress == DIFFUSION_PROGRESS_CONVERGED));
    CHECK(seen->ended == 0);
    seen->ended = canvas->ended;
    CHECK(seen->answer.count + canvas->count <= CAPACITY);
    memcpy(seen->answer.items + seen->answer.count, canvas->tokens,
           canvas->count * sizeof *canvas->tokens);
    seen->answer.count += canvas->count;
    seen->canvases++;
    return true;
}

static void answers(diffusion_model *model) {
    static const char question[] = "What is the capital of Norway?";
    const token_list prompt = norway(model);
    diffusion_context *context = new_context(model);
    diffusion_params params = default_params(model);
    diffusion_result result;
    token_list answer;
    stream seen;
    char words[512], *same_words = NULL, *thoughts = NULL;
    size_t size = 0;

    memset(&seen, 0, sizeof seen);
    seen.model = model;
    params.seed = 7;
    params.on_step = on_step;
    params.on_canvas = on_canvas;
    params.user_data = &seen;
    answer = generate(context, &prompt, &params, &result);
    CALL(diffusion_detokenize(model, answer.items, answer.count, false, words, sizeof words, &size,
                              &error));
    CHECK(strstr(words, "Oslo") != NULL);
    CHECK(result.struct_size == sizeof result);
    CHECK(result.steps == seen.steps && result.blocks == seen.canvases && result.steps > 1);
    CHECK(result.finish == DIFFUSION_FINISH_END_OF_TEXT && result.reused == 0);
    CHECK(seen.ended == 1 && seen.progress == DIFFUSION_PROGRESS_CONVERGED);
    CHECK(result.prefill_seconds > 0.0 && result.denoise_seconds > 0.0);
    CHECK(same(&answer, &seen.answer));
    CHECK(seen.last_entropy < seen.first_entropy);

    /* The same from text to text, and without callbacks. */
    params.on_step = NULL;
    params.on_canvas = NULL;
    CALL(diffusion_generate_text(context, question, strlen(question), &params, &same_words, &result,
                                 &error));
    CHECK(strcmp(words, same_words) == 0);
    diffusion_string_free(same_words);
    /* And with the model's defaults and no result. */
    CALL(diffusion_generate_text(context, question, strlen(question), NULL, &same_words, NULL,
                                 &error));
    CHECK(strlen(same_words) > 0);
    diffusion_string_free(same_words);
    CALL(diffusion_generate_reply(context, question, strlen(question), &params, &same_words,
                                  &thoughts, NULL, &error));
    CHECK(strcmp(words, same_words) == 0 && strcmp(thoughts, "") == 0);
    diffusion_string_free(same_words);
    diffusion_string_free(thoughts);
    diffusion_context_free(context);
}

/* What a model thinks is separated from what it says, from where the prompt ends. */
static void thoughts_apart(const diffusion_model *model) {
    static const char whole[] = "<|channel>thought\nhm<channel|>Oslo";
    const size_t ends[] = {0, 10, 18};
    size_t i;
    for (i = 0; i < sizeof ends / sizeof *ends; i++) {
        token_list prompt, tokens;
        char *answer = NULL, *thoughts = NULL;
        CALL(diffusion_tokenize(model, whole, ends[i], false, true, prompt.items, CAPACITY,
                                &prompt.count, &error));
        CALL(diffusion_tokenize(model, whole + ends[i], strlen(whole + ends[i]), false, true,
                                tokens.items, CAPACITY, &tokens.count, &error));
        CALL(diffusion_split_answer(model, prompt.items, prompt.count, tokens.items, tokens.count,
                                    &answer, &thoughts, &error));
        CHECK(strcmp(answer, "Oslo") == 0 && strcmp(thoughts, "hm") == 0);
        diffusion_string_free(answer);
        diffusion_string_free(thoughts);
        CALL(diffusion_split_answer(model, prompt.items, prompt.count, tokens.items, tokens.count,
                                    &answer, NULL, &error));
        CHECK(strcmp(answer, "Oslo") == 0);
        diffusion_string_free(answer);
    }
}

/* Counted by the library and from the drafts. */
static void corrections(diffusion_model *model) {
    const token_list prompt = chat(
        model,
        "[{\"role\": \"user\", \"content\": \"Tell a story about Grace and a white owl.\"}]");
    diffusion_context *context = new_context(model);
    diffusion_params params = default_params(model);
    diffusion_result result;
    stream seen;
    size_t corrected = 0;

    /* Much of what is hardly known is accepted at once, and corrected. */
    params.entropy_bound = 100.0f;
    params.t_max = 2.0f;
    /* Few steps: this also runs under valgrind. */
    params.max_canvases = 1;
    params.on_step = on_step;
    params.on_canvas = on_canvas;
    params.user_data = &seen;
    for (params.seed = 1; params.seed < 3; params.seed++) {
        memset(&seen, 0, sizeof seen);
        seen.model = model;
        generate(context, &prompt, &params, &result);
        CHECK(result.corrected_positions == seen.corrected_positions);
        CHECK(result.corrections == seen.corrections);
        CHECK(memcmp(result.corrections_by_step, seen.by_step, sizeof seen.by_step) == 0);
        CHECK(memcmp(&result.last_correction, &seen.last_correction,
                     sizeof seen.last_correction) == 0);
        corrected += seen.corrections;
    }
    CHECK(corrected > 0);
    diffusion_context_free(context);
}

/* The demo was trained with canvases of 32 tokens. */
static void short_canvas(diffusion_model *model) {
    const token_list prompt = norway(model);
    diffusion_context *context = new_context(model);
    diffusion_params params = default_params(model);
    diffusion_result result;
    token_list answer, expected;
    stream seen;
    size_t count = 0;

    CHECK(params.canvas == 0);
    expected = generate(context, &prompt, &params, &result);
    params.canvas = 32;
    answer = generate(context, &prompt, &params, &result);
    CHECK(same(&answer, &expected));

    memset(&seen, 0, sizeof seen);
    seen.model = model;
    seen.length = 16;
    params.canvas = 16;
    params.on_step = on_step;
    params.on_canvas = on_canvas;
    params.user_data = &seen;
    answer = generate(context, &prompt, &params, &result);
    CHECK(seen.steps > 0 && same(&answer, &seen.answer));

    params.canvas = 48;
    FAILS(diffusion_generate(context, prompt.items, prompt.count, &params, answer.items, CAPACITY,
                             &count, NULL, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT,
          "canvas: has 48 tokens, but this model was trained with canvases of 32: use 32, or a "
          "multiple of 16 below it");
    diffusion_context_free(context);
}

static void limits(diffusion_model *model) {
    const token_list prompt = chat(
        model,
        "[{\"role\": \"user\", \"content\": \"Tell a story about Grace and a white owl.\"}]");
    diffusion_context *context = new_context(model);
    diffusion_params params = default_params(model);
    diffusion_result result;
    token_list answer;
    stream seen;
    int i;

    params.max_steps = 3;
    params.max_tokens = 5;
    answer = generate(context, &prompt, &params, &result);
    CHECK(answer.count == 5 && result.finish == DIFFUSION_FINISH_LENGTH && result.blocks == 1);
    params.max_tokens = 0;
    params.max_canvases = 1;
    answer = generate(context, &prompt, &params, &result);
    CHECK(answer.count == 32 && result.finish == DIFFUSION_FINISH_LENGTH);

    /* A canvas that converges without an end of the answer, and one that does neither. */
    params.on_step = on_step;
    params.on_canvas = on_canvas;
    params.user_data = &seen;
    for (i = 0; i < 2; i++) {
        params.max_steps = i == 0 ? default_params(model).max_steps : 1;
        memset(&seen, 0, sizeof seen);
        seen.model = model;
        answer = generate(context, &prompt, &params, &result);
        CHECK(same(&answer, &seen.answer) && result.finish == DIFFUSION_FINISH_LENGTH);
        CHECK(seen.canvases == 1 && seen.ended == 0);
        CHECK(seen.progress ==
              (i == 0 ? DIFFUSION_PROGRESS_CONVERGED : DIFFUSION_PROGRESS_OUT_OF_STEPS));
    }
    diffusion_context_free(context);
}

/* A file without a tokenizer is run with tokens. */
static void tokens_only(const char *path) {
    diffusion_model *model = load_model(path);
    diffusion_context *context = new_context(model);
    diffusion_params params = default_params(model);
    diffusion_result result;
    token_list prompt, answer;
    size_t count = 99;
    prompt.count = 3;
    prompt.items[0] = 5;
    prompt.items[1] = 6;
    prompt.items[2] = 7;
    params.max_tokens = 16;
    params.max_steps = 4;
    answer = generate(context, &prompt, &params, &result);
    CHECK(answer.count > 0);
    FAILS(diffusion_tokenize(model, "a", 1, false, false, NULL, 0, &count, &error),
          DIFFUSION_STATUS_TOKENIZER, "the file has no tokenizer");
    CHECK(count == 99);
    diffusion_context_free(context);
    diffusion_model_free(model);
}

int main(int argc, char **argv) {
    diffusion_model *model;
    CHECK(argc == 3);
    library();
    model = load(argv[1]);
    describe(model);
    text(model);
    answers(model);
    thoughts_apart(model);
    corrections(model);
    short_canvas(model);
    limits(model);
    /* The second holder still has it when the first has let go. */
    CHECK(diffusion_model_retain(model) == model);
    diffusion_model_free(model);
    describe(model);
    diffusion_model_free(model);
    tokens_only(argv[2]);
    CHECK(messages == 0);
    return 0;
}
