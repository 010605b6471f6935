// What Jittor writes to std::cerr while it compiles kernels ("Compiling Operators(3/12) used: ...") is handed to a
// listener; all else is written as ever, at once. A filter in front of std::cerr's buffer does it: neither the file
// descriptor nor what Python writes is touched.
#include <dlfcn.h>
#include <execinfo.h>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <streambuf>
#include <string>
#include <thread>

namespace {

using Listener = void (*)(const char*);

const char beginning[] = "Compiling Operators(";
const size_t longest = 200;

// Whether Jittor's library is among the callers.
bool by_jittor() {
    void* frames[8];
    const int found = backtrace(frames, 8);
    for (int i = 0; i < found; i++) {
        Dl_info info;
        if (dladdr(frames[i], &info) && info.dli_fname && std::strstr(info.dli_fname, "jittor_core"))
            return true;
    }
    return false;
}

class Filter : public std::streambuf {
  public:
    // Messages of the calling thread go to the listener; null for none.
    void listen(Listener listener) {
        write_what_waits();
        listener_ = listener;
        thread_ = std::this_thread::get_id();
        if (listener && std::cerr.rdbuf() != this)
            behind_ = std::cerr.rdbuf(this);
        else if (!listener && std::cerr.rdbuf() == this)
            std::cerr.rdbuf(behind_);
    }

    void write_what_waits() {
        if (line_end_waits_)
            behind_->sputc('\n');
        behind_->sputn(message_.data(), message_.size());
        forget();
        within_ = after_ = false;
    }

  protected:
    std::streamsize xsputn(const char* text, std::streamsize size) override {
        if (!listener_ || std::this_thread::get_id() != thread_)
            return behind_->sputn(text, size);
        take(text, size);
        return size;
    }

    int_type overflow(int_type character) override {
        if (traits_type::eq_int_type(character, traits_type::eof()))
            return traits_type::not_eof(character);
        const char text = traits_type::to_char_type(character);
        return xsputn(&text, 1) == 1 ? character : traits_type::eof();
    }

    int sync() override { return behind_->pubsync(); }

  private:
    // Jittor writes a line's end, then messages that each end with a carriage return, then a line's end.
    void take(const char* text, std::streamsize size) {
        const bool starts = size >= std::streamsize(sizeof beginning - 1) &&
                            !std::memcmp(text, beginning, sizeof beginning - 1);
        if (within_ || (starts && by_jittor())) {
            message_.append(text, size);
            within_ = true;
            if (message_.back() == '\r') {
                const std::string whole = message_;
                forget();
                within_ = false;
                after_ = true;
                listener_(whole.c_str());
            } else if (message_.find('\n') != std::string::npos || message_.size() > longest) {
                write_what_waits();  // somebody else's
            }
        } else if (size == 1 && *text == '\n' && by_jittor()) {
            if (after_) {
                after_ = false;
            } else {
                write_what_waits();
                line_end_waits_ = true;
            }
        } else {
            write_what_waits();
            behind_->sputn(text, size);
        }
    }

    void forget() {
        message_.clear();
        line_end_waits_ = false;
    }

    std::streambuf* behind_ = std::cerr.rdbuf();
    Listener listener_ = nullptr;
    std::thread::id thread_;
    std::string message_;
    bool line_end_waits_ = false, within_ = false, after_ = false;
};

// never destroyed, since std::cerr is written to until the process ends
Filter& filter() {
    static Filter* made = new Filter;
    return *made;
}

// before the process ends, when there is no Python to call
const int at_exit = std::atexit([] { filter().listen(nullptr); });

}  // namespace

extern "C" void listen(Listener listener) {
    filter().listen(listener);
}

extern "C" void write_what_waits() {
    filter().write_what_waits();
}
