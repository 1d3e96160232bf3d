/*
 * Every error path: its status, its message, outputs untouched, the context usable afterwards.
 * Arguments: the demo model, a file that is not a model.
 */
#include "check.h"

#define NULL_OF(call, name) FAILS(call, DIFFUSION_STATUS_INVALID_ARGUMENT, name ": must not be NULL")
#define TOO_SMALL(call) FAILS(call, DIFFUSION_STATUS_BUFFER_TOO_SMALL, "capacity: is ")

/* A count that nothing may overwrite, and a pointer. */
enum { UNTOUCHED = 12345 };

static diffusion_model *model;
static diffusion_context *context;

static void no_error_wanted(void) {
    CHECK(diffusion_model_load(NULL, NULL, NULL, NULL) == DIFFUSION_STATUS_INVALID_ARGUMENT);
    CHECK(diffusion_error_status(NULL) == DIFFUSION_STATUS_OK);
    CHECK(strcmp(diffusion_error_message(NULL), "") == 0);
    CHECK(strcmp(diffusion_status_name(-1), "unknown status") == 0);
    diffusion_error_free(NULL);
    diffusion_model_free(NULL);
    diffusion_context_free(NULL);
    diffusion_context_cancel(NULL);
    diffusion_string_free(NULL);
    CHECK(diffusion_model_retain(NULL) == NULL && diffusion_model_architecture(NULL) == NULL);
    CHECK(diffusion_model_vocab_size(NULL) == 0 && diffusion_model_canvas_length(NULL) == 0);
    CHECK(diffusion_model_context_length(NULL) == 0);
    CHECK(!diffusion_model_is_end_token(NULL, 1));
}

static void null_pointers(void) {
    int32_t token = 5;
    char buffer[8] = "before";
    size_t count = UNTOUCHED;
    char *text = buffer;
    diffusion_model_params model_params;
    diffusion_context_params context_params;
    diffusion_params params = default_params(model);
    diffusion_model *no_model = model;
    diffusion_context *no_context = context;

    NULL_OF(diffusion_load_backends(NULL, &error), "directory");
    NULL_OF(diffusion_device_count(NULL, &error), "count");
    NULL_OF(diffusion_device_get(0, NULL, &error), "device");
    NULL_OF(diffusion_rpc_add_server(NULL, 0, &error), "endpoint");
    NULL_OF(diffusion_model_params_init(NULL, sizeof model_params, &error), "params");
    NULL_OF(diffusion_model_load(NULL, NULL, &no_model, &error), "path");
    NULL_OF(diffusion_model_load("model.gguf", NULL, NULL, &error), "model");
    NULL_OF(diffusion_model_metadata(NULL, "a", buffer, 8, &count, &error), "model");
    NULL_OF(diffusion_model_metadata(model, NULL, buffer, 8, &count, &error), "key");
    NULL_OF(diffusion_model_metadata(model, "a", buffer, 8, NULL, &error), "size");
    NULL_OF(diffusion_model_metadata(model, "general.architecture", NULL, 99, &count, &error),
            "buffer");
    NULL_OF(diffusion_tokenize(NULL, "a", 1, false, false, &token, 1, &count, &error), "model");
    NULL_OF(diffusion_tokenize(model, NULL, 1, false, false, &token, 1, &count, &error), "text");
    NULL_OF(diffusion_tokenize(model, "a", 1, false, false, NULL, 1, &count, &error), "buffer");
    NULL_OF(diffusion_tokenize(model, "a", 1, false, false, &token, 1, NULL, &error), "count");
    NULL_OF(diffusion_detokenize(NULL, &token, 1, false, buffer, 8, &count, &error), "model");
    NULL_OF(diffusion_detokenize(model, NULL, 1, false, buffer, 8, &count, &error), "tokens");
    NULL_OF(diffusion_detokenize(model, &token, 1, false, NULL, 99, &count, &error), "buffer");
    NULL_OF(diffusion_detokenize(model, &token, 1, false, buffer, 8, NULL, &error), "size");
    NULL_OF(diffusion_apply_chat_template(NULL, "[]", NULL, &token, 1, &count, &error), "model");
    NULL_OF(diffusion_apply_chat_template(model, NULL, NULL, &token, 1, &count, &error),
            "messages");
    NULL_OF(diffusion_apply_chat_template(model, "[]", NULL, &token, 1, NULL, &error), "count");
    NULL_OF(diffusion_context_params_init(NULL, sizeof context_params, &error), "params");
    NULL_OF(diffusion_context_new(NULL, NULL, &no_context, &error), "model");
    NULL_OF(diffusion_context_new(model, NULL, NULL, &error), "context");
    NULL_OF(diffusion_context_reset(NULL, &error), "context");
    NULL_OF(diffusion_context_cached(NULL, &count, &error), "context");
    NULL_OF(diffusion_context_cached(context, NULL, &error), "count");
    NULL_OF(diffusion_params_init(NULL, &params, sizeof params, &error), "model");
    NULL_OF(diffusion_params_init(model, NULL, sizeof params, &error), "params");
    NULL_OF(diffusion_generate(NULL, &token, 1, NULL, &token, 1, &count, NULL, &error), "context");
    NULL_OF(diffusion_generate(context, NULL, 1, NULL, &token, 1, &count, NULL, &error), "prompt");
    NULL_OF(diffusion_generate(context, &token, 1, NULL, NULL, 4096, &count, NULL, &error),
            "tokens");
    NULL_OF(diffusion_generate(context, &token, 1, NULL, &token, 1, NULL, NULL, &error), "count");
    NULL_OF(diffusion_generate_text(NULL, "a", 1, NULL, &text, NULL, &error), "context");
    NULL_OF(diffusion_generate_text(context, NULL, 1, NULL, &text, NULL, &error), "prompt");
    NULL_OF(diffusion_generate_text(context, "a", 1, NULL, NULL, NULL, &error), "text");
    NULL_OF(diffusion_generate_reply(NULL, "a", 1, NULL, &text, NULL, NULL, &error), "context");
    NULL_OF(diffusion_generate_reply(context, NULL, 1, NULL, &text, NULL, NULL, &error), "prompt");
    NULL_OF(diffusion_generate_reply(context, "a", 1, NULL, NULL, &text, NULL, &error), "answer");
    NULL_OF(diffusion_split_answer(NULL, &token, 1, &token, 1, &text, &text, &error), "model");
    NULL_OF(diffusion_split_answer(model, NULL, 1, &token, 1, &text, &text, &error), "prompt");
    NULL_OF(diffusion_split_answer(model, &token, 1, NULL, 1, &text, &text, &error), "tokens");
    NULL_OF(diffusion_split_answer(model, &token, 1, &token, 1, NULL, &text, &error), "answer");

    CHECK(count == UNTOUCHED && token == 5 && text == buffer && strcmp(buffer, "before") == 0);
    CHECK(no_model == model && no_context == context);
}

/* Runs `call` with each wrong size in `wrong`; `first` is the size of the first version. */
#define WRONG_SIZES(type, first, call)                                                      \
    do {                                                                                    \
        const size_t sizes[] = {0, 1, (first) - 1, sizeof(type) + 1, (size_t)-1};           \
        size_t i;                                                                           \
        for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {                                \
            const size_t wrong = sizes[i];                                                  \
            FAILS(call, DIFFUSION_STATUS_STRUCT_SIZE, #type ".struct_size: is ");           \
        }                                                                                   \
    } while (0)

static void struct_sizes(void) {
    int32_t tokens[CAPACITY];
    size_t count = UNTOUCHED;
    diffusion_device device, device_before;
    diffusion_model_params model_params;
    diffusion_context_params context_params;
    diffusion_params params;
    diffusion_result result, result_before;
    diffusion_model *no_model = NULL;
    diffusion_context *no_context = NULL;
    char *text = NULL;

    WRONG_SIZES(diffusion_model_params, offsetof(diffusion_model_params, no_op_offload),
                diffusion_model_params_init(&model_params, wrong, &error));
    WRONG_SIZES(diffusion_context_params, sizeof(diffusion_context_params),
                diffusion_context_params_init(&context_params, wrong, &error));
    WRONG_SIZES(diffusion_params, offsetof(diffusion_params, algorithm),
                diffusion_params_init(model, &params, wrong, &error));

    /* A program that was compiled when the struct ended before `algorithm`. */
    CALL(diffusion_params_init(model, &params, offsetof(diffusion_params, algorithm), &error));
    CHECK(params.struct_size == offsetof(diffusion_params, algorithm));

    memset(&device, 7, sizeof device);
    device_before = device;
    WRONG_SIZES(diffusion_device, sizeof(diffusion_device),
                (device.struct_size = wrong, diffusion_device_get(0, &device, &error)));
    device_before.struct_size = device.struct_size;
    CHECK(memcmp(&device, &device_before, sizeof device) == 0);

    CALL(diffusion_model_params_init(&model_params, sizeof model_params, &error));
    WRONG_SIZES(diffusion_model_params, offsetof(diffusion_model_params, no_op_offload),
                (model_params.struct_size = wrong,
                 diffusion_model_load("model.gguf", &model_params, &no_model, &error)));
    CALL(diffusion_context_params_init(&context_params, sizeof context_params, &error));
    WRONG_SIZES(diffusion_context_params, sizeof(diffusion_context_params),
                (context_params.struct_size = wrong,
                 diffusion_context_new(model, &context_params, &no_context, &error)));
    params = default_params(model);
    WRONG_SIZES(diffusion_params, offsetof(diffusion_params, algorithm),
                (params.struct_size = wrong,
                 diffusion_generate(context, tokens, 1, &params, tokens, CAPACITY, &count, NULL,
                                    &error)));
    WRONG_SIZES(diffusion_params, offsetof(diffusion_params, algorithm),
                (params.struct_size = wrong,
                 diffusion_generate_text(context, "a", 1, &params, &text, NULL, &error)));
    memset(&result, 7, sizeof result);
    result_before = result;
    WRONG_SIZES(diffusion_result, offsetof(diffusion_result, corrected_positions),
                (result.struct_size = wrong,
                 diffusion_generate(context, tokens, 1, NULL, tokens, CAPACITY, &count, &result,
                                    &error)));
    WRONG_SIZES(diffusion_result, offsetof(diffusion_result, corrected_positions),
                (result.struct_size = wrong,
                 diffusion_generate_text(context, "a", 1, NULL, &text, &result, &error)));
    result_before.struct_size = result.struct_size;
    CHECK(memcmp(&result, &result_before, sizeof result) == 0);
    CHECK(count == UNTOUCHED && no_model == NULL && no_context == NULL && text == NULL);
}

static bool refuse(float progress, void *user_data) {
    (void)progress;
    (void)user_data;
    return false;
}

static void ignore_message(int32_t level, const char *target, const char *message, void *data) {
    (void)level;
    (void)target;
    (void)message;
    (void)data;
}

static void loading(const char *path, const char *no_model_file) {
    diffusion_model *no_model = NULL;
    diffusion_model_params params;

    FAILS(diffusion_model_load("/no/such/file.gguf", NULL, &no_model, &error), DIFFUSION_STATUS_IO,
          "/no/such/file.gguf: ");
    FAILS(diffusion_model_load(no_model_file, NULL, &no_model, &error), DIFFUSION_STATUS_BAD_MODEL,
          no_model_file);
    FAILS(diffusion_model_load("\xff", NULL, &no_model, &error), DIFFUSION_STATUS_INVALID_ARGUMENT,
          "path: the byte at offset 0 is not UTF-8");

    CALL(diffusion_model_params_init(&params, sizeof params, &error));
    params.progress = refuse;
    FAILS(diffusion_model_load(path, &params, &no_model, &error), DIFFUSION_STATUS_CANCELLED,
          "cancelled");
    params.progress = NULL;
    params.devices = "nothing";
    FAILS(diffusion_model_load(path, &params, &no_model, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "there is no 'nothing'");
    params.devices = NULL;
    params.tensor_overrides = "attn";
    FAILS(diffusion_model_load(path, &params, &no_model, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "'attn' is not REGEX=MEMORY: no '='");
    params.tensor_overrides = "(=CPU";
    FAILS(diffusion_model_load(path, &params, &no_model, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "is not REGEX=MEMORY: ");
    params.tensor_overrides = "attn=nowhere";
    FAILS(diffusion_model_load(path, &params, &no_model, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "there is no memory 'nowhere'");
    params.tensor_overrides = NULL;
    params.tensor_split_count = 1;
    FAILS(diffusion_model_load(path, &params, &no_model, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "tensor_split: must not be NULL");
    params.tensor_split = (const float *)(const void *)&params;
    params.tensor_split_count = (size_t)-1;
    FAILS(diffusion_model_load(path, &params, &no_model, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "tensor_split: 18446744073709551615 is not a length");
    CHECK(no_model == NULL);

    FAILS(diffusion_load_backends("/no/such/directory", &error), DIFFUSION_STATUS_INVALID_ARGUMENT,
          "/no/such/directory is not a directory");
    FAILS(diffusion_rpc_add_server("gpu-box", 0, &error), DIFFUSION_STATUS_INVALID_ARGUMENT,
          "endpoint: 'gpu-box' is not HOST:PORT");
    FAILS(diffusion_rpc_add_server("127.0.0.1:1", 1000, &error), DIFFUSION_STATUS_BACKEND,
          "RPC server 127.0.0.1:1: nothing listens there");
    FAILS(diffusion_log_set(ignore_message, 0, NULL, &error), DIFFUSION_STATUS_INVALID_ARGUMENT,
          "level: 0 is none");
    FAILS(diffusion_log_set(ignore_message, 6, NULL, &error), DIFFUSION_STATUS_INVALID_ARGUMENT,
          "level: 6 is none");
}

static void asking(void) {
    size_t devices = 0, count = UNTOUCHED;
    diffusion_device device;
    char buffer[16] = "before";
    int32_t token = 5;
    const int32_t foreign[] = {-1, 2176, INT32_MAX};
    size_t i;

    device.struct_size = sizeof device;
    CALL(diffusion_device_count(&devices, &error));
    FAILS(diffusion_device_get(devices, &device, &error), DIFFUSION_STATUS_NOT_FOUND, "index: is ");
    FAILS(diffusion_model_metadata(model, "no.such.key", buffer, 16, &count, &error),
          DIFFUSION_STATUS_NOT_FOUND, "there is no metadata key 'no.such.key'");
    FAILS(diffusion_tokenize(model, "a\xffz", 3, false, false, &token, 1, &count, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "text: the byte at offset 1 is not UTF-8");
    for (i = 0; i < 3; i++)
        FAILS(diffusion_detokenize(model, &foreign[i], 1, false, buffer, 16, &count, &error),
              DIFFUSION_STATUS_TOKENIZER, "is not in the vocabulary of 2176");
    FAILS(diffusion_apply_chat_template(model, "[", NULL, &token, 1, &count, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "messages: ");
    FAILS(diffusion_apply_chat_template(model, "[{\"role\": \"nobody\"}]", NULL, &token, 1, &count,
                                        &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "messages: ");
    FAILS(diffusion_apply_chat_template(model, "[]", "[]", &token, 1, &count, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "variables: ");
    CHECK(count == UNTOUCHED && token == 5 && strcmp(buffer, "before") == 0);

    /* Too small by one, and by all: the count is written, nothing else. */
    TOO_SMALL(diffusion_model_metadata(model, "general.architecture", buffer, 15, &count, &error));
    CHECK(count == sizeof "diffusion-gemma" && strcmp(buffer, "before") == 0);
    count = UNTOUCHED;
    TOO_SMALL(diffusion_model_metadata(model, "general.architecture", NULL, 0, &count, &error));
    CHECK(count == sizeof "diffusion-gemma");
    TOO_SMALL(diffusion_detokenize(model, NULL, 0, false, NULL, 0, &count, &error));
    CHECK(count == 1);
    TOO_SMALL(diffusion_apply_chat_template(
        model, "[{\"role\": \"user\", \"content\": \"Hello!\"}]", NULL, &token, 1, &count, &error));
    CHECK(count > 1 && token == 5);
}

static void creating(void) {
    diffusion_context *none = NULL;
    diffusion_context_params params, good;
    CALL(diffusion_context_params_init(&good, sizeof good, &error));
#define REFUSED(field, value, part)                                     \
    params = good;                                                      \
    params.field = value;                                               \
    FAILS(diffusion_context_new(model, &params, &none, &error),         \
          DIFFUSION_STATUS_INVALID_ARGUMENT, part)
    REFUSED(context_length, 32, "context_length: 32 does not hold");
    REFUSED(context_length, (size_t)-1, "context_length: ");
    REFUSED(threads, 100000, "threads: use 1 to ");
    REFUSED(kv_type, 3, "kv_type: 3 is none");
    REFUSED(flash_attention, -1, "flash_attention: -1 is none");
#undef REFUSED
    CHECK(none == NULL);
}

static void generating(void) {
    const token_list prompt = norway(model);
    const diffusion_params good = default_params(model);
    diffusion_params params;
    int32_t tokens[CAPACITY];
    static int32_t long_prompt[2048];
    size_t count = UNTOUCHED, i;
    char *text = NULL;
    const int32_t foreign[] = {-1, 2176};

    memset(tokens, 7, sizeof tokens);
#define GENERATE(prompt, length, capacity) \
    diffusion_generate(context, prompt, length, &params, tokens, capacity, &count, NULL, &error)
#define REFUSED(field, value, part)                                                        \
    params = good;                                                                         \
    params.field = value;                                                                  \
    FAILS(GENERATE(prompt.items, prompt.count, CAPACITY),                                  \
          DIFFUSION_STATUS_INVALID_ARGUMENT, part)
    REFUSED(max_steps, 0, "max_steps: is 0");
    REFUSED(t_min, -1.0f, "t_min: is -1");
    REFUSED(t_max, 0.0f, "t_max: is 0");
    REFUSED(entropy_bound, 0.0f, "entropy_bound: is 0");
    REFUSED(confidence_threshold, -1.0f, "confidence_threshold: is -1");
#undef REFUSED
    params = good;
    FAILS(GENERATE(NULL, 0, CAPACITY), DIFFUSION_STATUS_INVALID_ARGUMENT, "prompt: it is empty");
    for (i = 0; i < 2; i++)
        FAILS(GENERATE(&foreign[i], 1, CAPACITY), DIFFUSION_STATUS_INVALID_ARGUMENT,
              "is not in the vocabulary of 2176 tokens");
    FAILS(GENERATE(long_prompt, 2048, CAPACITY), DIFFUSION_STATUS_CONTEXT_FULL,
          "the prompt has 2048 tokens and 32 more are needed for a canvas");
    FAILS(GENERATE(prompt.items, (size_t)-1, CAPACITY), DIFFUSION_STATUS_INVALID_ARGUMENT,
          "prompt: 18446744073709551615 is not a length");
    FAILS(diffusion_generate_text(context, "\xc3", 1, NULL, &text, NULL, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "prompt: the byte at offset 0 is not UTF-8");
    CHECK(count == UNTOUCHED && text == NULL);

    /* The capacity must do for the longest answer: a limit on tokens, canvases or the context. */
    TOO_SMALL(GENERATE(prompt.items, prompt.count, 0));
    CHECK(count == 256);
    TOO_SMALL(GENERATE(prompt.items, prompt.count, 255));
    CHECK(count == 256);
    params.max_tokens = 0;
    params.max_canvases = 3;
    TOO_SMALL(GENERATE(prompt.items, prompt.count, 95));
    CHECK(count == 3 * 32);
    params.max_canvases = 0;
    TOO_SMALL(GENERATE(prompt.items, prompt.count, CAPACITY));
    CHECK(count == (2048 - prompt.count) / 32 * 32);
    params.max_tokens = (size_t)-1;
    TOO_SMALL(GENERATE(prompt.items, prompt.count, CAPACITY));
    CHECK(count == (2048 - prompt.count) / 32 * 32);
    for (i = 0; i < CAPACITY; i++)
        CHECK(tokens[i] == 0x07070707);
#undef GENERATE
}

typedef struct stopper {
    int events, stop_at;
} stopper;

static bool stop_at_step(const diffusion_draft *draft, void *user_data) {
    stopper *stop = user_data;
    (void)draft;
    return stop->events++ != stop->stop_at;
}

static bool stop_at_canvas(const diffusion_canvas *canvas, void *user_data) {
    stopper *stop = user_data;
    (void)canvas;
    return stop->events++ != stop->stop_at;
}

/* A callback cancels at every event there is; afterwards the context works as before. */
static void cancelling(void) {
    const token_list prompt = norway(model);
    diffusion_params params = default_params(model);
    diffusion_result result, before;
    token_list expected, answer;
    stopper stop = {0, -1};
    int events, i;

    params.max_steps = 3;
    expected = generate(context, &prompt, &params, &result);
    params.on_step = stop_at_step;
    params.on_canvas = stop_at_canvas;
    params.user_data = &stop;
    answer = generate(context, &prompt, &params, &result);
    CHECK(same(&answer, &expected));
    events = stop.events;
    CHECK(events >= 3);
    /* At the last event, the end of the only canvas, there is nothing left to cancel. */
    for (i = 0; i < events - 1; i++) {
        size_t count = UNTOUCHED;
        char *text = NULL;
        stop.stop_at = i;
        stop.events = 0;
        memset(&result, 7, sizeof result);
        result.struct_size = sizeof result;
        before = result;
        memset(&answer, 7, sizeof answer);
        FAILS(diffusion_generate(context, prompt.items, prompt.count, &params, answer.items,
                                 CAPACITY, &count, &result, &error),
              DIFFUSION_STATUS_CANCELLED, "cancelled after ");
        CHECK(stop.events == i + 1);
        CHECK(count == UNTOUCHED && answer.items[0] == 0x07070707);
        CHECK(memcmp(&result, &before, sizeof result) == 0);
        stop.events = 0;
        FAILS(diffusion_generate_text(context, "What is the capital of Norway?", 30, &params, &text,
                                      &result, &error),
              DIFFUSION_STATUS_CANCELLED, "cancelled after ");
        CHECK(text == NULL && memcmp(&result, &before, sizeof result) == 0);
        params.on_step = NULL;
        params.on_canvas = NULL;
        answer = generate(context, &prompt, &params, &result);
        CHECK(same(&answer, &expected));
        params.on_step = stop_at_step;
        params.on_canvas = stop_at_canvas;
    }
}

static bool reenter(const diffusion_draft *draft, void *user_data) {
    int32_t token = 5;
    size_t count = UNTOUCHED;
    char *text = NULL;
    (void)draft;
    (void)user_data;
    FAILS(diffusion_generate(context, &token, 1, NULL, &token, 1, &count, NULL, &error),
          DIFFUSION_STATUS_BUSY, "context: another call is using it");
    FAILS(diffusion_generate_text(context, "a", 1, NULL, &text, NULL, &error),
          DIFFUSION_STATUS_BUSY, "context: another call is using it");
    FAILS(diffusion_context_reset(context, &error), DIFFUSION_STATUS_BUSY, "context: ");
    FAILS(diffusion_context_cached(context, &count, &error), DIFFUSION_STATUS_BUSY, "context: ");
    CHECK(count == UNTOUCHED && token == 5 && text == NULL);
    diffusion_context_cancel(context);
    return true;
}

static void reentering(void) {
    const token_list prompt = norway(model);
    diffusion_params params = default_params(model);
    int32_t tokens[CAPACITY];
    size_t count = UNTOUCHED;
    params.on_step = reenter;
    FAILS(diffusion_generate(context, prompt.items, prompt.count, &params, tokens, CAPACITY, &count,
                             NULL, &error),
          DIFFUSION_STATUS_CANCELLED, "cancelled after 1 steps, 0 canvases finished");
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    no_error_wanted();
    model = load_model(argv[1]);
    context = new_context(model);
    null_pointers();
    struct_sizes();
    loading(argv[1], argv[2]);
    asking();
    creating();
    generating();
    cancelling();
    reentering();
    diffusion_context_free(context);
    diffusion_model_free(model);
    return 0;
}
