// Asks the GGUF model in this folder through llama.cpp's C API, greedily, on the CPU.
//
//   ask "a text"            its answer; tokens/s on standard error
//   ask --selftest          compares this device with what the verified file computed (reference.h); exit code 3: a fault
//
// form.h says how the model was trained to read; both headers were written when the pack was made.
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "form.h"
#include "reference.h"

using Ids = std::vector<llama_token>;
using Clock = std::chrono::steady_clock;

static double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

[[noreturn]] static void fail(const std::string &what) {
    std::fprintf(stderr, "error: %s\n", what.c_str());
    std::exit(1);
}

struct Model {
    llama_model *model = nullptr;
    llama_context *context = nullptr;
    const llama_vocab *vocabulary = nullptr;
    int size = 0, length = 0;

    explicit Model(const char *path) {
        llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
        llama_backend_init();
        auto of_model = llama_model_default_params();
        of_model.n_gpu_layers = 0;
        model = llama_model_load_from_file(path, of_model);
        if (!model) fail(std::string("llama.cpp cannot load ") + path);
        vocabulary = llama_model_get_vocab(model);
        size = llama_vocab_n_tokens(vocabulary);
        auto of_context = llama_context_default_params();
        of_context.n_ctx = CONTEXT;
        of_context.n_batch = of_context.n_ubatch = std::min(CHUNK, CONTEXT);
        of_context.n_threads = of_context.n_threads_batch = 1;
        context = llama_init_from_model(model, of_context);
        if (!context) fail("llama.cpp cannot open a context");
    }
    ~Model() {
        llama_free(context);
        llama_model_free(model);
    }

    Ids bare(const std::string &text) const {
        Ids ids(text.size() + 16);
        int count = llama_tokenize(vocabulary, text.data(), int(text.size()), ids.data(), int(ids.size()), false, true);
        if (count < 0) fail("the text cannot be tokenized");
        ids.resize(count);
        return ids;
    }

    std::string piece(llama_token token) const {
        std::string text(64, 0);
        int count = llama_token_to_piece(vocabulary, token, text.data(), int(text.size()), 0, false);
        if (count < 0) {
            text.resize(-count);
            count = llama_token_to_piece(vocabulary, token, text.data(), int(text.size()), 0, false);
        }
        text.resize(std::max(count, 0));
        return text;
    }

    void forget() {
        llama_memory_clear(llama_get_memory(context), false);
        length = 0;
    }

    // Reads on: the logits after each token [count x size], or after the last alone.
    const float *feed(const Ids &ids, bool every) {
        const float *found = nullptr;
        for (size_t start = 0; start < ids.size(); start += CHUNK) {
            int count = int(std::min(ids.size() - start, size_t(CHUNK)));
            llama_batch batch = llama_batch_init(count, 0, 1);
            for (int i = 0; i < count; i++) {
                batch.token[i] = ids[start + i];
                batch.pos[i] = length + i;
                batch.n_seq_id[i] = 1;
                batch.seq_id[i][0] = 0;
                batch.logits[i] = every || i == count - 1;
            }
            batch.n_tokens = count;
            int status = llama_decode(context, batch);
            llama_batch_free(batch);
            if (status) fail("llama_decode returned " + std::to_string(status));
            length += count;
            found = llama_get_logits(context);
        }
        return found;
    }

    llama_token likeliest(const float *logits) const { return llama_token(std::max_element(logits, logits + size) - logits); }
};

static Ids prompt_of(const Model &model, std::string text) {
    if (STRIP) {
        const char *blank = " \t\r\n\v\f";
        size_t first = text.find_first_not_of(blank), last = text.find_last_not_of(blank);
        text = first == std::string::npos ? "" : text.substr(first, last - first + 1);
    }
    Ids ids(HEAD.begin(), HEAD.end()), rest = model.bare(BEFORE + text + AFTER);
    ids.insert(ids.end(), rest.begin(), rest.end());
    return ids;
}

static int answer(const std::string &text, int most) {
    Model model(FILE_NAME);
    Ids ids = prompt_of(model, text);
    if (ids.empty() || int(ids.size()) > CONTEXT) fail("the text has " + std::to_string(ids.size()) + " tokens");
    auto start = Clock::now();
    const float *logits = model.feed(ids, false);
    double reading = since(start);
    most = std::min(most, CONTEXT - int(ids.size()));
    start = Clock::now();
    int written = 0;
    for (llama_token token; written < most; logits = model.feed({token}, false)) {
        token = model.likeliest(logits);
        if (std::find(STOP.begin(), STOP.end(), token) != STOP.end()) break;
        const std::string said = model.piece(token);
        std::fwrite(said.data(), 1, said.size(), stdout);
        if (++written == most) break;
    }
    std::printf("\n");
    std::fprintf(stderr, "prefill %.1f, decode %.1f tokens/s\n", ids.size() / reading, written / since(start));
    return 0;
}

// KL(reference || this device) in nats, of the outcomes that the reference knows and the rest as one.
static double divergence(const float *known, const unsigned *outcomes, const float *logits, int size) {
    double most = *std::max_element(logits, logits + size), sum = 0;
    for (int i = 0; i < size; i++) sum += std::exp(logits[i] - most);
    double log_sum = most + std::log(sum), inside = 0, rest_p = 1, rest_q = 1;
    for (int k = 0; k < OUTCOMES; k++) {
        double p = known[k], q = logits[outcomes[k]] - log_sum;
        inside += std::exp(p) * (p - q);
        rest_p -= std::exp(p);
        rest_q -= std::exp(q);
    }
    double rest = rest_p > 1e-9 ? rest_p * (std::log(rest_p) - std::log(std::max(rest_q, 1e-12))) : 0;
    double found = inside + rest;
    return std::isfinite(found) ? std::max(found, 0.0) : INFINITY;
}

static int selftest() {
    auto begun = Clock::now();
    Model model(FILE_NAME);
    int prompts = 0, positions = 0, faults = 0;
    double sum = 0, reading = 0;
    long long cache = -1;
    size_t at = 0, tokens = 0;
    for (const auto &probe : PROBES) {
        prompts += prompt_of(model, probe.text) != Ids(probe.ids.begin(), probe.ids.begin() + probe.prompt);
        model.forget();
        auto start = Clock::now();
        Ids first(probe.ids.begin(), probe.ids.begin() + probe.start), rest(probe.ids.begin() + probe.start, probe.ids.end());
        std::vector<float> rows;
        const float *logits = model.feed(first, false);
        rows.insert(rows.end(), logits, logits + model.size);
        long long before = (long long)llama_state_seq_get_size(model.context, 0);
        logits = model.feed(rest, true);
        rows.insert(rows.end(), logits, logits + (rest.size() - 1) * model.size);
        reading += since(start);
        tokens += probe.ids.size();
        if (cache < 0) cache = (long long)llama_state_seq_get_size(model.context, 0) - before;
        for (size_t i = 0; i < rest.size(); i++, at++, positions++)
            sum += divergence(LOGPROBS.data() + at * OUTCOMES, IDS.data() + at * OUTCOMES, rows.data() + i * model.size, model.size);
    }
    double mean = sum / positions, decode = 0;
    llama_token token = PROBES[0].ids.back();
    auto start = Clock::now();
    for (int i = 0; i < 16; i++) token = model.likeliest(model.feed({token}, false));
    decode = 16 / since(start);
    auto fault = [&](bool is, const char *what) { if (is) faults++, std::fprintf(stderr, "fault: %s\n", what); };
    fault(prompts > 0, "prompts are other tokens (tokenizer or template)");
    fault(cache != CACHE_BYTES, "the key-value cache is of another type");
    fault(!(mean <= TOLERANCE), "it computes otherwise: kl above what rounding explains");
    std::printf("{\"passed\": %s, \"model\": \"%s\", \"prompts\": %zu, \"different_prompts\": %d, "
                "\"cache_bytes\": %lld, \"kl\": %.6g, \"positions\": %d, \"tolerance\": %.6g, \"prefill_tps\": %.6g, "
                "\"decode_tps\": %.6g, \"seconds\": %.3f}\n",
                faults ? "false" : "true", MODEL_ID, PROBES.size(), prompts, cache, std::isfinite(mean) ? mean : 1e9,
                positions, TOLERANCE, tokens / reading, decode, since(begun));
    return faults ? 3 : 0;
}

int main(int count, char **words) {
    if (count == 2 && !std::strcmp(words[1], "--selftest")) return selftest();
    if (count < 2 || count > 3) fail("ask TEXT [MOST_TOKENS], or ask --selftest");
    return answer(words[1], count == 3 ? std::atoi(words[2]) : 256);
}
