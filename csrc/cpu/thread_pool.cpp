#include "cpu/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "c2f/interruptible.h"
#include "cpu/openmp_team.h"

namespace c2f {
namespace {

using Body = std::function<void(int64_t, int)>;

constexpr std::chrono::milliseconds kAskEvery(50);

thread_local Interruptible* g_interruptible = nullptr;

bool interrupted() { return g_interruptible != nullptr && g_interruptible->ask(); }

struct Job {
  const Body* body;
  int64_t tasks;
  int helpers;  // workers 1 .. helpers may join
  std::fenv_t environment;
  std::atomic<int64_t> next{0};
  std::atomic<int> joined{0};

  void work(int worker) {
    for (int64_t task = next++; task < tasks; task = next++) {
      if (interrupted()) {
        next = tasks;
      } else {
        (*body)(task, worker);
      }
    }
  }

  // On a thread that others use too.
  void join() {
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&environment);
    work(joined++);
    std::fesetenv(&own);
  }
};

class ThreadPool {
 public:
  // False: the pool is busy, nothing was run.
  bool run(int64_t tasks, int num_threads, const Body& body) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner) return false;
    Job job;
    job.body = &body;
    job.tasks = tasks;
    std::fegetenv(&job.environment);
    if (run_on_team(num_threads, [&job] { job.join(); })) return true;
    job.helpers = grow(static_cast<int>(std::min<int64_t>(tasks, num_threads)) - 1);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      ++generation_;
    }
    start_.notify_all();
    job.work(0);
    // From here nobody joins, so a worker that has not woken up yet is not waited for.
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;
    done_.wait(lock, [this] { return active_ == 0; });
    return true;
  }

 private:
  // Makes up to `wanted` workers and returns how many of them there are. They are detached and live as long as the
  // process.
  int grow(int wanted) {
    while (workers_ < wanted) {
      try {
        std::thread([this, worker = workers_ + 1] { serve(worker); }).detach();
      } catch (const std::system_error&) {
        break;
      }
      ++workers_;
    }
    return std::min(wanted, workers_);
  }

  [[noreturn]] void serve(int worker) {
    uint64_t seen = 0;
    while (true) {
      spin_while(seen);
      std::unique_lock<std::mutex> lock(mutex_);
      start_.wait(lock, [&] { return job_ != nullptr && generation_ != seen && worker <= job_->helpers; });
      seen = generation_;
      Job* job = job_;
      ++active_;
      lock.unlock();
      std::fesetenv(&job->environment);
      job->work(worker);
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  // The phases of a backward follow each other closely; a short spin saves a sleep and a wake-up between them.
  void spin_while(uint64_t seen) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(20);
    while (generation_ == seen && std::chrono::steady_clock::now() < end) {
    }
  }

  std::mutex owner_;  // held by the thread whose job runs
  int workers_ = 0;   // under owner_
  std::mutex mutex_;  // job_, active_, writes of generation_
  std::condition_variable start_, done_;
  Job* job_ = nullptr;
  int active_ = 0;
  std::atomic<uint64_t> generation_{0};
};

// Never destroyed: detached workers may outlive main. A forked child has no workers and may find the locks held, so it
// starts from a new pool and leaves the old one be.
std::atomic<ThreadPool*> g_pool{nullptr};
[[maybe_unused]] const int g_fork_handler = pthread_atfork(nullptr, nullptr, [] { g_pool = nullptr; });

ThreadPool& pool() {
  ThreadPool* current = g_pool;
  if (current == nullptr) {
    ThreadPool* made = new ThreadPool;
    if (g_pool.compare_exchange_strong(current, made)) return *made;
    delete made;
  }
  return *current;
}

}  // namespace

void parallel_for(int64_t tasks, int num_threads, const Body& body) {
  const int threads = std::min(num_threads, kMaxThreads);
  if (threads > 1 && tasks > 1 && pool().run(tasks, threads, body)) return;
  for (int64_t task = 0; task < tasks && !interrupted(); ++task) body(task, 0);
}

Interruptible::Interruptible(bool (*stop)())
    : stop_(stop), outer_(g_interruptible), next_(std::chrono::steady_clock::now() + kAskEvery) {
  g_interruptible = this;
}

Interruptible::~Interruptible() { g_interruptible = outer_; }

bool Interruptible::ask() {
  const auto now = std::chrono::steady_clock::now();
  if (stopped_ || now < next_) return stopped_;
  next_ = now + kAskEvery;
  return stopped_ = stop_();
}

}  // namespace c2f
